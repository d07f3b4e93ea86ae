"""Models that are exported to every format, and the comparison with what comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers, tree

from keras_branch_prune.exporting.serving import serving_names
from keras_branch_prune.graph.equivalence import draw_inputs, relative_error
from keras_branch_prune.zoo import dcgan_generator, rgb_autoencoder, vgg16


def cnn(name: str = "cnn") -> keras.Model:
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, use_bias=False)(x))
    x = layers.Dropout(0.5)(layers.Flatten()(layers.ReLU()(x)))
    return keras.Model(inputs, layers.Dense(3, name="scores")(x), name=name)


def wide() -> keras.Model:
    inputs = keras.Input((300,), name="features")
    # Not zero: a bias of zeros is left away by some converters.
    dense = layers.Dense(1000, bias_initializer="random_normal", name="scores")
    return keras.Model(inputs, dense(inputs))


def two_by_two() -> keras.Model:
    inputs = {name: keras.Input((8, 8, 3), name=name) for name in ("right", "left")}
    x = layers.Concatenate()([layers.Conv2D(4, 3, padding="same")(x) for x in inputs.values()])
    x = layers.Conv2D(5, 3, activation="relu")(layers.BatchNormalization()(x))
    outputs = {"z": layers.GlobalAveragePooling2D()(x), "file": layers.Dense(2)(inputs["left"])}
    return keras.Model(inputs, outputs)


def unsorted() -> keras.Model:
    """Inputs and outputs whose names are not in alphabetical order."""
    inputs = [keras.Input((4,), name="z"), keras.Input((4,), name="a")]
    heads = [layers.Dense(3, name=name)(x) for name, x in zip("yb", inputs, strict=True)]
    return keras.Model(inputs, heads)


def grouped() -> keras.Model:
    inputs = keras.Input((8, 8, 4), name="image")
    return keras.Model(inputs, layers.Conv2D(6, 3, groups=2, name="features")(inputs))


def open_sizes() -> keras.Model:
    inputs = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.SeparableConv2D(4, 3)(x))
    return keras.Model(inputs, layers.Conv2DTranspose(3, 3, strides=2, padding="same")(x))


def attention() -> keras.Model:
    inputs = keras.Input((6, 8), name="words")
    x = layers.Add()([inputs, layers.MultiHeadAttention(2, 4)(inputs, inputs)])
    x = layers.Dense(4, activation="gelu")(layers.LayerNormalization()(x))
    return keras.Model(inputs, x)


def normalized() -> keras.Model:
    inputs = keras.Input((4,), name="features")
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(5, 3, (50, 4)))
    return keras.Model(inputs, layers.Dense(3)(normalization(inputs)))


def input_as_output() -> keras.Model:
    inputs = keras.Input((4,), name="features")
    return keras.Model(inputs, [layers.Dense(3, name="scores")(inputs), inputs])


def recurrent() -> keras.Model:
    inputs = keras.Input((5, 4), name="words")
    return keras.Model(inputs, layers.LSTM(3, name="state")(inputs))


CASES: dict[str, Callable[[], keras.Model]] = {
    "cnn": cnn,
    "two inputs and two outputs": two_by_two,
    "names in no order": unsorted,
    "grouped convolution": grouped,
    "open sizes": open_sizes,
    "attention": attention,
    "normalization": normalized,
    "vgg16": lambda: vgg16(width=1 / 16),
    "autoencoder": lambda: rgb_autoencoder(widths=(4, 8), input_shape=(16, 16, 3)),
    "autoencoder with skips": lambda: rgb_autoencoder(
        widths=(4, 8), input_shape=(16, 16, 3), skips=True
    ),
    "generator": lambda: dcgan_generator(noise=10, widths=(8, 4), image_shape=(8, 8, 1)),
}

_OPTIONS = {"weights": None, "input_shape": (64, 64, 3), "classes": 10}
LARGE_CASES: dict[str, Callable[[], keras.Model]] = {
    "vgg16": lambda: vgg16(width=0.5),
    "ResNet50": lambda: keras.applications.ResNet50(**_OPTIONS),
    "MobileNetV2": lambda: keras.applications.MobileNetV2(**_OPTIONS),
    "EfficientNetB0": lambda: keras.applications.EfficientNetB0(**_OPTIONS),
}


def build(cases: dict[str, Callable[[], keras.Model]], name: str) -> keras.Model:
    """Builds a model by name; its statistics of BatchNormalization are not the initial ones."""
    keras.utils.set_random_seed(0)
    model, rng = cases[name](), np.random.default_rng(0)
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, layers.BatchNormalization):
            weights = [
                rng.uniform(0.5, 2, x.shape)
                if "gamma" in x.path or "var" in x.path
                # Not too far, or the outputs of deep networks are constants.
                else rng.normal(0, 0.3, x.shape)
                for x in layer.weights
            ]
            layer.set_weights(weights)
    return model


def assert_round_trip(
    model: keras.Model,
    run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
    tolerance: float = 1e-5,
) -> None:
    """Compares a reloaded model with the original, output by output, at batch 1 and 3."""
    names = serving_names(model)
    for batch in (1, 3):
        inputs = draw_inputs(model, batch)
        arrays = [keras.ops.convert_to_numpy(x) for x in tree.flatten(inputs)]
        outputs = run(dict(zip(names.inputs, arrays, strict=True)))
        assert set(outputs) == set(names.outputs)
        expected = tree.flatten(model(inputs, training=False))
        for name, one in zip(names.outputs, expected, strict=True):
            assert outputs[name].shape == one.shape
            assert relative_error(one, outputs[name]) <= tolerance


def size(path: Path) -> int:
    """Returns the size of a file, or of all files in a folder, bytes."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
