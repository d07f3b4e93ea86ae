"""A small model in a file, and ways to spoil the file."""

import io
import json
import zipfile

import h5py
import keras
from keras import layers

from keras_branch_prune.files.archive import CONFIG, WEIGHTS


def tiny_model(*more):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.Dropout(0.1)(layers.BatchNormalization()(x))
    x = layers.Dense(7, activation="relu", name="dense")(layers.Flatten()(x) + 1.0)
    for layer in more:
        x = layer(x)
    return keras.Model(inputs, x)


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
