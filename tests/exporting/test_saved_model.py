import os

import keras
import pytest
from helpers.export_cases import cnn
from helpers.saved_models import is_frozen, signature_of
from keras import layers

from keras_branch_prune.exporting.saved_model import export_saved_model
from keras_branch_prune.graph.equivalence import draw_inputs, relative_error


def _several():
    """Inputs of two dtypes, a repeated output name, an input that is an output, a loop."""
    words, other = keras.Input((5,), dtype="int32", name="words"), keras.Input((4,), name="other")
    x = layers.LSTM(4)(layers.Embedding(7, 6)(words))
    head = layers.Dense(3, name="head")
    return keras.Model([words, other], [head(x), head(other), other])


def test_verified_in_a_fresh_process(tmp_path):
    model = cnn()
    assert export_saved_model(model, tmp_path / "new" / "saved") == tmp_path / "new" / "saved"
    assert os.listdir(tmp_path / "new") == ["saved"]
    signature = signature_of(tmp_path / "new" / "saved")
    inputs = draw_inputs(model, 5)
    outputs = signature(image=inputs)
    assert list(outputs) == ["scores"]
    assert relative_error(model(inputs, training=False), outputs["scores"]) <= 1e-5
    assert signature.structured_input_signature[1]["image"].shape == (None, 8, 8, 3)


def test_verified_with_several_inputs_and_outputs(tmp_path):
    model = _several()
    signature = signature_of(export_saved_model(model, tmp_path / "saved"))
    words, other = draw_inputs(model, 2)
    outputs = signature(words=words, other=other)
    assert set(outputs) == {"head", "head_1", "other"}
    expected = model([words, other], training=False)
    actual = [outputs[name] for name in ("head", "head_1", "other")]
    assert relative_error(expected, actual) <= 1e-5


def test_weights_are_stored_once(tmp_path):
    inputs = keras.Input((300,), name="features")
    model = keras.Model(inputs, layers.Dense(1000, name="scores")(inputs))
    for freeze in (True, False):
        path = export_saved_model(model, tmp_path / str(freeze), verify=False, freeze=freeze)
        assert is_frozen(path) is freeze
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        assert 1.0 <= size / (4 * model.count_params()) <= 1.05
        x = draw_inputs(model, 3)
        assert relative_error(model(x), signature_of(path)(features=x)["scores"]) <= 1e-6


def test_an_existing_saved_model_or_empty_folder_is_replaced(tmp_path):
    first = export_saved_model(cnn(), tmp_path, verify=False)
    before = (first / "saved_model.pb").read_bytes()
    export_saved_model(cnn(), tmp_path, verify=False)
    assert (first / "saved_model.pb").read_bytes() != before


def test_targets_that_are_refused(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(FileExistsError, match=r"`path` must be a folder. Received: the file"):
        export_saved_model(cnn(), file)
    with pytest.raises(FileExistsError, match="`path` must be new, empty or a SavedModel"):
        export_saved_model(cnn(), tmp_path)
    assert file.read_text() == "mine"
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_wrong_models(tmp_path):
    with pytest.raises(TypeError, match=r"must be a keras.Model. Received: dict"):
        export_saved_model({}, tmp_path / "saved")
    with pytest.raises(ValueError, match="must be built"):
        export_saved_model(keras.Sequential([layers.Dense(3)]), tmp_path / "saved")
    assert os.listdir(tmp_path) == []


def test_other_backends_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match=r"TensorFlow backend.*'jax'"):
        export_saved_model(cnn(), tmp_path / "saved")
