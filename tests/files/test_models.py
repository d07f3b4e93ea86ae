"""Loading of files that nobody vouches for, and writing that leaves nothing half done."""

import contextlib
import copy
import io
import json
import struct
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers
from keras.src.backend.common import global_state

from keras_branch_prune.files.archive import CONFIG, WEIGHTS, ModelFileError
from keras_branch_prune.files.atomic import atomic_write
from keras_branch_prune.files.models import load_model, save_model


@keras.saving.register_keras_serializable(package="test_files")
class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


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


class Unregistered(layers.Layer):
    def call(self, x):
        return 2 * x


def tiny_model(*more):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.Dropout(0.1)(layers.BatchNormalization()(x))
    x = layers.Dense(7, activation="relu", name="dense")(layers.Flatten()(x) + 1.0)
    for layer in more:
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.keras"
    save_model(tiny_model(), path)
    return path


def rewrite(path, member, change, compression=zipfile.ZIP_STORED):
    """Replaces one member of an archive by `change(old bytes)`; None drops it."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    members[member] = change(members[member])
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            if data is not None:
                file.writestr(name, data)


def rewrite_config(path, change):
    """Passes the parsed architecture to `change`, which alters it in place."""

    def changed(data):
        config = json.loads(data)
        change(config)
        return json.dumps(config).encode()

    rewrite(path, CONFIG, changed)


def rewrite_weights(path, change):
    """Passes the opened weights to `change`, which alters them in place."""

    def changed(data):
        buffer = io.BytesIO(data)
        with h5py.File(buffer, "r+") as file:
            change(file)
        return buffer.getvalue()

    rewrite(path, WEIGHTS, changed)


def layer_entry(config, name):
    return next(entry for entry in config["config"]["layers"] if entry["name"] == name)


def peak_memory():
    """Returns the most memory this process has ever used, in MiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the peak of memory is read from /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


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


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(model_file, share):
    data = model_file.read_bytes()
    model_file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelFileError, match=r"model\.keras': it is not a zip archive, or is trun"):
        load_model(model_file)


def test_a_flipped_bit_is_refused(model_file):
    data = bytearray(model_file.read_bytes())
    data[len(data) // 2] ^= 1
    model_file.write_bytes(data)
    with pytest.raises(ModelFileError, match="corrupt"):
        load_model(model_file)


@pytest.mark.parametrize("member", [CONFIG, WEIGHTS])
def test_a_missing_member_is_named(model_file, member):
    rewrite(model_file, member, lambda data: None)
    with pytest.raises(ModelFileError, match=f"has no member '{member}'"):
        load_model(model_file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b"[]", "does not describe a Keras object"),
        (b'{"class_name": "Functional", "config": {}}', "Cannot load the model file"),
    ],
    ids=["cut", "binary", "deep", "list", "empty"],
)
def test_a_broken_architecture_is_refused(model_file, text, message):
    rewrite(model_file, CONFIG, lambda data: text)
    with pytest.raises(ModelFileError, match=message):
        load_model(model_file)


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


def test_max_parameters(model_file):
    with pytest.raises(ModelFileError, match=r"values, more than max_parameters=200"):
        load_model(model_file, max_parameters=200)
    with pytest.raises(ValueError, match=r"integer of at least 1. Received: max_parameters=0"):
        load_model(model_file, max_parameters=0)


def test_checking_leaves_keras_as_it_was(model_file):
    keras.utils.clear_session()
    load_model(model_file)
    assert layers.Dense(1).name == "dense"
    # Keras would allocate what stands there at the end of the next stateless scope.
    assert not global_state.get_global_attribute("uninitialized_variables")


def replace_first_bias(file, make):
    group = file["layers/dense/vars"]
    del group["1"]
    make(group)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda group: group.create_dataset("1", (10**9,), "f4"), "bytes that are not stored"),
        (lambda group: group.create_dataset("1", (10**9,), "f4", chunks=(1000,)), "in one piece"),
        (
            lambda group: group.create_dataset("1", data=np.zeros(10**5), compression="gzip"),
            "in one piece",
        ),
        (
            lambda group: group.create_dataset("1", (7,), "f4", external=[("/etc/hosts", 0, 28)]),
            "in one piece",
        ),
        (lambda group: group.create_dataset("1", data=["a"] * 7), "not an array of numbers"),
        (
            lambda group: group.__setitem__("1", h5py.ExternalLink("/etc/hosts", "x")),
            "link to another place at 'layers/dense/vars/1'",
        ),
        (lambda group: group.__setitem__("1", h5py.SoftLink("/layers")), "link to another place"),
        (lambda group: None, "Cannot load the model file"),
    ],
    ids=["lazy", "chunked", "compressed", "external", "strings", "link", "soft-link", "missing"],
)
def test_weights_that_only_pretend_are_refused(model_file, make, message):
    rewrite_weights(model_file, lambda file: replace_first_bias(file, make))
    with pytest.raises(ModelFileError, match=message):
        load_model(model_file)


def test_weights_that_share_their_bytes_are_refused(model_file):
    offsets = []

    def add(file):
        for name, count in (("honest", 250_000), ("sharing", 1237)):
            file[name] = np.zeros(count, "f4")
            offsets.append(file[name].id.get_offset())

    def share(data):
        # The shape, the storage's size and its address, as HDF5 writes them.
        for old, new in ((1237, 250_000), (4 * 1237, 1_000_000), offsets[::-1]):
            assert struct.pack("<Q", old) in data
            data = data.replace(struct.pack("<Q", old), struct.pack("<Q", new))
        return data

    rewrite_weights(model_file, add)
    rewrite(model_file, WEIGHTS, share)
    with pytest.raises(ModelFileError, match="claim more bytes than the file has"):
        load_model(model_file)


def test_broken_weights_are_refused(model_file):
    rewrite(model_file, WEIGHTS, lambda data: data[: len(data) // 2])
    with pytest.raises(ModelFileError, match=r"its model\.weights\.h5 is truncated or corrupt"):
        load_model(model_file)


def test_weights_of_another_shape_are_refused(model_file):
    def change(config):
        layer_entry(config, "dense")["config"]["units"] = 8

    rewrite_config(model_file, change)
    with pytest.raises(ModelFileError, match=r"(?s)Cannot load the model file .*shape"):
        load_model(model_file)


def test_an_archive_that_expands_too_much_is_refused(model_file):
    rewrite(model_file, WEIGHTS, lambda data: data + bytes(40 * 2**20), zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFileError, match="expands from"):
        load_model(model_file)


def test_members_that_share_their_bytes_are_refused(model_file):
    with zipfile.ZipFile(model_file, "a") as file:
        for number in range(3):
            shared = copy.copy(file.getinfo(WEIGHTS))
            shared.filename = f"assets/{number}"
            file.filelist.append(shared)
        file.writestr("assets/last", "x")
    with pytest.raises(ModelFileError, match="members overlap"):
        load_model(model_file)


def test_members_outside_the_archive_are_refused(model_file):
    with zipfile.ZipFile(model_file, "a") as file:
        file.writestr("assets/../../evil.txt", "x")
    with pytest.raises(ModelFileError, match="outside the archive"):
        load_model(model_file)


def test_two_members_of_one_name_are_refused(model_file):
    with zipfile.ZipFile(model_file, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr(CONFIG, "{}")
    with pytest.raises(ModelFileError, match="same name"):
        load_model(model_file)


# Writing


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


def test_a_failed_write_leaves_nothing(tmp_path):
    def write(path):
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "results" / "metrics.json")
    assert list((tmp_path / "results").iterdir()) == []


def test_a_written_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "metrics.json"
    for text in ("old", "new"):
        with atomic_write(path) as temporary:
            assert temporary.suffix == ".json"
            temporary.write_text(text)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def write_directory(path, text, fail=False):
    with atomic_write(path) as temporary:
        temporary.mkdir()
        (temporary / "a.txt").write_text(text)
        if fail:
            raise OSError("disk full")


def test_a_directory_is_replaced_whole(tmp_path):
    path = tmp_path / "exported"
    write_directory(path, "old")
    (path / "stale.txt").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_directory(path, "half", fail=True)
    assert sorted(item.name for item in path.iterdir()) == ["a.txt", "stale.txt"]
    write_directory(path, "new")
    assert [item.read_text() for item in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_directory_comes_back_when_the_swap_fails(tmp_path, monkeypatch):
    path = tmp_path / "exported"
    write_directory(path, "old")
    rename = Path.rename

    def fail_onto_path(self, target):
        if target == path and not self.name.endswith(".old"):
            raise OSError("no rename")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_onto_path)
    with pytest.raises(OSError, match="no rename"):
        write_directory(path, "new")
    assert (path / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_kinds_are_not_mixed_and_nothing_is_an_error(tmp_path):
    write_directory(tmp_path / "exported", "old")
    with (
        pytest.raises(FileExistsError, match=r"Cannot write a file to '.*', which is a directory"),
        atomic_write(tmp_path / "exported") as temporary,
    ):
        temporary.write_text("a file")
    with (
        pytest.raises(FileNotFoundError, match="Nothing was written"),
        atomic_write(tmp_path / "empty.txt"),
    ):
        pass
