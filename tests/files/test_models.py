"""Loading of files that nobody vouches for, and writing that leaves nothing half done."""

from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.model_files import layer_entry, rewrite_config, tiny_model
from keras import layers

from keras_branch_prune.files.archive import ModelFileError
from keras_branch_prune.files.models import load_model, save_model


@keras.saving.register_keras_serializable(package="test_files")
class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


class Unregistered(layers.Layer):
    def call(self, x):
        return 2 * x


def test_a_saved_model_loads_with_the_same_outputs(model_file):
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype("float32")
    original = keras.saving.load_model(model_file)
    loaded = load_model(model_file, max_parameters=10_000)
    np.testing.assert_array_equal(loaded(x), original(x))


def test_the_optimizer_is_restored_unless_told_otherwise(tmp_path):
    model = tiny_model()
    model.compile("adam", "mse", metrics=["mae"])
    model.train_on_batch(np.zeros((2, 8, 8, 3)), np.ones((2, 7)))
    save_model(model, tmp_path / "model.keras")
    assert int(load_model(tmp_path / "model.keras").optimizer.iterations) == 1
    assert not load_model(tmp_path / "model.keras", compile=False).compiled


@pytest.mark.parametrize(
    "build",
    [
        lambda: keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)]),
        lambda: tiny_model(Doubled()),
        lambda: tiny_model(layers.Dense(3, activation=keras.ops.tanh, kernel_regularizer="l2")),
        lambda: tiny_model(layers.Dense(3, dtype="mixed_bfloat16")),
        lambda: tiny_model(layers.SpectralNormalization(layers.Dense(3))),
        lambda: tiny_model(layers.Reshape((7, 1)), layers.Bidirectional(layers.LSTM(3))),
        lambda: keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=2),
    ],
    ids=["sequential", "registered", "functions", "mixed", "wrapper", "recurrent", "mobilenet"],
)
def test_honest_models_load(build, tmp_path):
    model = build()
    save_model(model, tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    for weight, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_custom_objects_are_needed_and_enough(tmp_path):
    path = tmp_path / "model.keras"
    save_model(tiny_model(Unregistered()), path)
    with pytest.raises(ModelFileError, match=r"needs 'Unregistered'.*pass it in custom_objects"):
        load_model(path)
    load_model(path, custom_objects={"Unregistered": Unregistered})
    with keras.saving.custom_object_scope({"Unregistered": Unregistered}):
        load_model(path)


def test_what_is_not_a_model_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model file '.*missing\.keras'"):
        load_model(tmp_path / "missing.keras")
    with pytest.raises(IsADirectoryError, match="Received a directory"):
        load_model(tmp_path)
    (tmp_path / "model.h5").write_bytes(b"x")
    with pytest.raises(ModelFileError, match=r"ends in `\.keras`. Received: '.*model\.h5'"):
        load_model(tmp_path / "model.h5")
    (tmp_path / "text.keras").write_text("no zip")
    with pytest.raises(ModelFileError, match=r"text\.keras': it is not a zip archive"):
        load_model(tmp_path / "text.keras")


def test_max_parameters(model_file):
    with pytest.raises(ModelFileError, match=r"values, more than max_parameters=200"):
        load_model(model_file, max_parameters=200)
    with pytest.raises(ValueError, match=r"integer of at least 1. Received: max_parameters=0"):
        load_model(model_file, max_parameters=0)


def test_weights_of_another_shape_are_refused(model_file):
    def change(config):
        layer_entry(config, "dense")["config"]["units"] = 8

    rewrite_config(model_file, change)
    with pytest.raises(ModelFileError, match=r"(?s)Cannot load the model file .*shape"):
        load_model(model_file)


def test_an_interrupted_save_leaves_the_old_file(model_file, monkeypatch):
    before = model_file.read_bytes()
    model = tiny_model()

    def save_half(path):
        Path(path).write_bytes(b"half a model")
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "save", save_half)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, model_file)
    assert model_file.read_bytes() == before
    assert [path.name for path in model_file.parent.iterdir()] == ["model.keras"]


def test_save_model_wants_its_suffix(tmp_path):
    with pytest.raises(ModelFileError, match=r"ends in `\.keras`. Received: '.*model\.h5'"):
        save_model(tiny_model(), tmp_path / "model.h5")
