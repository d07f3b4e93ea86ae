"""Architectures that would run code, or claim sizes that are not stored."""

import contextlib
import json
from pathlib import Path

import keras
import pytest
from helpers.model_files import layer_entry, rewrite_config, tiny_model
from keras import layers
from keras.src.backend.common import global_state

from keras_branch_prune.files.archive import ModelFileError
from keras_branch_prune.files.models import load_model, save_model


@keras.saving.register_keras_serializable(package="test_files")
class Swallowing(layers.Layer):
    """Goes on when its variable cannot be made."""

    def __init__(self, size=3, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def build(self, input_shape):
        with contextlib.suppress(ValueError):
            self.add_weight(shape=(self.size,))

    def call(self, x):
        return x

    def get_config(self):
        return {**super().get_config(), "size": self.size}


def peak_memory():
    """Returns the most memory this process has ever used, in MiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the peak of memory is read from /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@pytest.fixture
def unsafe_keras():
    keras.config.enable_unsafe_deserialization()
    yield
    # There is no public way back.
    global_state.set_global_attribute("safe_mode_saving", None)


@pytest.mark.usefixtures("unsafe_keras")
def test_a_lambda_is_refused_even_in_unsafe_mode(tmp_path):
    path = tmp_path / "model.keras"
    save_model(tiny_model(layers.Lambda(lambda x: 2 * x)), path)
    with pytest.raises(ModelFileError, match=r"contains '(Lambda|__lambda__)', which can run code"):
        load_model(path)


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def instance(module, name, **config):
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (instance("keras.layers", "TFSMLayer", filepath="x"), "'TFSMLayer', which can run code"),
        (instance("keras.layers", "Lambda", function="x"), "'Lambda', which can run code"),
        (instance("builtins", "__lambda__", value="x"), "'__lambda__', which can run code"),
        (instance("os", "System", command="true"), "needs 'System' from the module 'os'"),
        (instance("keras_hub.models", "Task"), "from the module 'keras_hub.models'"),
        (instance("keras_branch_prune.files.models", "ModelFileError"), "no building block"),
        (instance("keras.utils", "get_file", origin="x"), "needs 'get_file'"),
        (instance("keras.models", "load_model", filepath="x"), "needs 'load_model'"),
        (instance("keras.src.utils.file_utils", "Progbar"), "no building block"),
        (function("keras.utils", "get_file"), "needs 'get_file' from the module 'keras.utils'"),
        (function("keras.models", "load_model"), "needs 'load_model'"),
        (function("os", "system"), "needs 'system' from the module 'os'"),
        (function("keras.ops", ["x"]), "no proper name"),
        (instance("builtins", "__numpy__", value=[""], dtype="S1000000000"), "constant of the"),
    ],
    ids=lambda value: (
        value["class_name"] + "-" + value["module"] if isinstance(value, dict) else ""
    ),
)
def test_code_and_foreign_modules_are_refused(model_file, activation, message):
    def change(config):
        layer_entry(config, "dense")["config"]["activation"] = activation

    rewrite_config(model_file, change)
    with pytest.raises(ModelFileError, match=message):
        load_model(model_file)


def test_a_vocabulary_from_another_file_is_refused(tmp_path):
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, layers.StringLookup(vocabulary=["a", "b"])(inputs))
    path = tmp_path / "model.keras"
    save_model(model, path)

    def change(config):
        config["config"]["layers"][1]["config"]["vocabulary"] = "/etc/hostname"

    rewrite_config(path, change)
    with pytest.raises(ModelFileError, match="reads its vocabulary from the file '/etc/hostname'"):
        load_model(path)


def test_code_in_the_training_settings_is_refused_unless_skipped(model_file):
    def change(config):
        config["compile_config"] = {"optimizer": "sgd", "loss": function("os", "system")}

    rewrite_config(model_file, change)
    with pytest.raises(ModelFileError, match="needs 'system'"):
        load_model(model_file)
    load_model(model_file, compile=False)


@pytest.mark.parametrize(
    ("layer", "size"),
    [("dense", {"units": 10**9}), ("conv", {"filters": 10**9}), ("conv", {"kernel_size": [8, 8]})],
    ids=["units", "filters", "kernel"],
)
def test_claimed_sizes_are_refused_before_allocation(model_file, layer, size):
    def change(config):
        layer_entry(config, layer)["config"].update(size)
        if "kernel_size" in size:
            layer_entry(config, layer)["config"]["filters"] = 10**4

    load_model(model_file)  # so that what TensorFlow allocates once is already there
    rewrite_config(model_file, change)
    before = peak_memory()
    with pytest.raises(ModelFileError, match=r"claim at least \d+ values, but only \d+ are stored"):
        load_model(model_file)
    assert peak_memory() - before < 50


def test_layers_off_the_models_path_are_counted_too(model_file):
    def change(config):
        extra = json.loads(json.dumps(layer_entry(config, "dense")))
        extra["name"] = extra["config"]["name"] = "unused"
        extra["config"]["units"] = 10**9
        config["config"]["layers"].append(extra)

    rewrite_config(model_file, change)
    with pytest.raises(ModelFileError, match="claim at least"):
        load_model(model_file)


def test_a_layer_cannot_hide_its_size(tmp_path):
    path = tmp_path / "model.keras"
    save_model(tiny_model(Swallowing(name="hiding")), path)

    def change(config):
        layer_entry(config, "hiding")["config"]["size"] = 10**9

    rewrite_config(path, change)
    with pytest.raises(ModelFileError, match="claim at least"):
        load_model(path)


def test_checking_leaves_keras_as_it_was(model_file):
    keras.utils.clear_session()
    load_model(model_file)
    assert layers.Dense(1).name == "dense"
    # Keras would allocate what stands there at the end of the next stateless scope.
    assert not global_state.get_global_attribute("uninitialized_variables")
