"""A tiny branched model, and callbacks that script what happens in `fit`."""

from __future__ import annotations

import keras
import numpy as np

from keras_branch_prune.layers.alpha import Alpha
from keras_branch_prune.layers.blend import AlphaBlend
from keras_branch_prune.layers.channel_map import ChannelMap


def small_branched_model(optimizer=None, **compile_options):
    """A hand-made branched model with weights to train, and all three layers."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(4)(inputs)
    original = keras.layers.Activation("tanh")(hidden)
    reduced = ChannelMap([(1, 4, 2)], use_bias=True)(hidden)
    pruned = ChannelMap([(1, 2, 4)])(keras.layers.Activation("tanh")(reduced))
    blend = AlphaBlend()([Alpha()(inputs), original, pruned])
    model = keras.Model(inputs, keras.layers.Dense(1)(blend))
    compile_options.setdefault("jit_compile", False)  # Which compiles longer than it trains.
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **compile_options)
    return model


def plain_model(optimizer=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)], name="plain")
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    return model


class Script(keras.callbacks.Callback):
    """Puts one scripted value per epoch into the logs; put it first."""

    def __init__(self, monitor, values):
        super().__init__()
        self.monitor, self.values = monitor, values

    def on_epoch_end(self, epoch, logs=None):
        if self.values[epoch] is not None:
            logs[self.monitor] = self.values[epoch]


def fit(model, callbacks, epochs, **options):
    """Fits 8 samples in 2 batches, in the same order always; returns the history."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 6)), rng.normal(size=(8, 1))
    options = {"x": x, "y": y, "batch_size": 4, "shuffle": False, "verbose": 0, **options}
    return model.fit(epochs=epochs, callbacks=callbacks, **options).history


def weights_of(model):
    return [np.array(variable) for variable in model.variables + model.optimizer.variables]


def assert_same_state(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)
