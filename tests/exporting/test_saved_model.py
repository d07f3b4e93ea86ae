import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import export_cases
from helpers.export_cases import assert_round_trip
from keras import layers

from keras_branch_prune.exporting import saved_model as export
from keras_branch_prune.exporting import serving
from keras_branch_prune.exporting import verification as verify
from keras_branch_prune.exporting.saved_model import export_saved_model
from keras_branch_prune.exporting.verification import ExportError
from keras_branch_prune.graph.equivalence import random_inputs, relative_error


def _signature(path):
    loaded = tf.saved_model.load(path)
    signature = loaded.signatures["serving_default"]
    signature.owner = loaded  # a signature does not keep its model alive
    return signature


def _tensors(inputs):
    return {name: tf.constant(x) for name, x in inputs.items()}


def _is_frozen(path):
    stored = [name for name, _ in tf.train.list_variables(str(path / "variables" / "variables"))]
    return not any("model_variables" in name for name in stored)


def _cnn(name="cnn"):
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, use_bias=False)(x))
    x = layers.Dropout(0.5)(layers.Flatten()(layers.ReLU()(x)))
    return keras.Model(inputs, layers.Dense(3, name="scores")(x), name=name)


def _several():
    """Inputs of two dtypes, a repeated output name, an input that is an output, a loop."""
    words, other = keras.Input((5,), dtype="int32", name="words"), keras.Input((4,), name="other")
    x = layers.LSTM(4)(layers.Embedding(7, 6)(words))
    head = layers.Dense(3, name="head")
    return keras.Model([words, other], [head(x), head(other), other])


def test_verified_in_a_fresh_process(tmp_path):
    model = _cnn()
    assert export_saved_model(model, tmp_path / "new" / "saved") == tmp_path / "new" / "saved"
    assert os.listdir(tmp_path / "new") == ["saved"]
    signature = _signature(tmp_path / "new" / "saved")
    inputs = random_inputs(model, 5)
    outputs = signature(image=inputs)
    assert list(outputs) == ["scores"]
    assert relative_error(model(inputs, training=False), outputs["scores"]) <= 1e-5
    assert signature.structured_input_signature[1]["image"].shape == (None, 8, 8, 3)


def test_verified_with_several_inputs_and_outputs(tmp_path):
    model = _several()
    signature = _signature(export_saved_model(model, tmp_path / "saved"))
    words, other = random_inputs(model, 2)
    outputs = signature(words=words, other=other)
    assert set(outputs) == {"head", "head_1", "other"}
    expected = model([words, other], training=False)
    actual = [outputs[name] for name in ("head", "head_1", "other")]
    assert relative_error(expected, actual) <= 1e-5


def test_dict_outputs_keep_their_keys(tmp_path):
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    sums = {"z": layers.Add()(list(inputs.values())), "file": layers.Dense(2)(inputs["b"])}
    model = keras.Model(inputs, sums)
    signature = _signature(export_saved_model(model, tmp_path / "saved", verify=False))
    values = random_inputs(model, 2)
    assert relative_error(model(values), signature(**values)) <= 1e-6


def test_input_names_that_tensorflow_does_not_allow(tmp_path):
    inputs = [keras.Input((4,), name=name) for name in ("my image", "my-image", "2nd")]
    model = keras.Model(inputs, layers.Add(name="the-sum")(inputs))
    signature = _signature(export_saved_model(model, tmp_path / "saved", verify=False))
    assert set(signature.structured_input_signature[1]) == {"my_image", "my_image_1", "arg_2nd"}
    assert list(signature.structured_outputs) == ["the-sum"]


def test_weights_are_stored_once(tmp_path):
    inputs = keras.Input((300,), name="features")
    model = keras.Model(inputs, layers.Dense(1000, name="scores")(inputs))
    for freeze in (True, False):
        path = export_saved_model(model, tmp_path / str(freeze), verify=False, freeze=freeze)
        assert _is_frozen(path) is freeze
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        assert 1.0 <= size / (4 * model.count_params()) <= 1.05
        x = random_inputs(model, 3)
        assert relative_error(model(x), _signature(path)(features=x)["scores"]) <= 1e-6


def test_large_models_are_not_frozen(tmp_path, monkeypatch):
    model = _cnn()
    assert serving.fits_as_constants(model)
    monkeypatch.setattr(serving, "_MAX_FROZEN_BYTES", 1)
    path = export_saved_model(model, tmp_path / "saved", verify=False)
    assert not _is_frozen(path)


def test_values_that_are_no_variables_are_frozen_too(tmp_path):
    model = export_cases.normalized()
    path = export_saved_model(model, tmp_path / "saved")
    assert _is_frozen(path)
    assert_round_trip(model, lambda inputs: _signature(path)(**_tensors(inputs)))


def test_lookup_tables_keep_their_content(tmp_path):
    inputs = keras.Input((), dtype="string", name="word")
    model = keras.Model(inputs, layers.StringLookup(vocabulary=["a", "b"], name="id")(inputs))
    path = export_saved_model(model, tmp_path / "saved", verify=False)
    np.testing.assert_array_equal(_signature(path)(word=tf.constant(["b", "?"]))["id"], [2, 0])
    with pytest.raises(ValueError, match=r"no random values for the input 'word'.*`verify=False`"):
        export_saved_model(model, tmp_path / "saved2")
    assert os.listdir(tmp_path) == ["saved"]


def test_a_mismatch_is_deleted_and_the_old_export_stays(tmp_path, monkeypatch):
    path = export_saved_model(_cnn(), tmp_path / "saved", verify=False)
    before = (path / "saved_model.pb").read_bytes()
    wrong = np.ones((1, 3), "float32")
    monkeypatch.setattr(verify, "_reload_and_run", lambda *args: [[wrong], [wrong]])
    with pytest.raises(
        ExportError, match=r"differs from 'third' at output 'scores'.*allowed 1e-05"
    ):
        export_saved_model(_cnn("third"), path)
    assert (path / "saved_model.pb").read_bytes() == before
    assert os.listdir(tmp_path) == ["saved"]


def test_an_export_that_cannot_be_loaded_is_deleted(tmp_path, monkeypatch):
    def write(form, names, folder, freeze):
        folder.mkdir()
        (folder / "saved_model.pb").write_bytes(b"nonsense")

    monkeypatch.setattr(export, "_write", write)
    with pytest.raises(ExportError, match=r"fresh process; nothing was written(.|\n)*Error"):
        export_saved_model(_cnn(), tmp_path / "saved")
    assert os.listdir(tmp_path) == []


def test_wrong_shapes_and_missing_answers_are_mismatches(tmp_path, monkeypatch):
    monkeypatch.setattr(
        verify, "_reload_and_run", lambda *args: [[np.zeros((1, 1), "float32")]] * 2
    )
    with pytest.raises(ExportError, match="= inf"):
        export_saved_model(_cnn(), tmp_path / "saved")


def test_half_precision_has_a_wider_bar():
    policies = {"float32": 1e-5, "mixed_float16": 1e-2, "mixed_bfloat16": 1e-1}
    for policy, bar in policies.items():
        inputs = keras.Input((4,))
        assert verify._tolerance(keras.Model(inputs, layers.Dense(2, dtype=policy)(inputs))) == bar


def test_an_existing_saved_model_or_empty_folder_is_replaced(tmp_path):
    first = export_saved_model(_cnn(), tmp_path, verify=False)
    before = (first / "saved_model.pb").read_bytes()
    export_saved_model(_cnn(), tmp_path, verify=False)
    assert (first / "saved_model.pb").read_bytes() != before


def test_targets_that_are_refused(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(FileExistsError, match=r"`path` must be a folder. Received: the file"):
        export_saved_model(_cnn(), file)
    with pytest.raises(FileExistsError, match="`path` must be new, empty or a SavedModel"):
        export_saved_model(_cnn(), tmp_path)
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
        export_saved_model(_cnn(), tmp_path / "saved")
