"""A model whose output and loss are α, and ways to run callbacks on it."""

import keras
import numpy as np

from keras_branch_prune.layers.alpha import Alpha
from keras_branch_prune.layers.blend import AlphaBlend

TENTHS = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]


@keras.saving.register_keras_serializable(package="test_callbacks")
class CallCounter(keras.layers.Layer):
    """Counts how often Python runs its `call`, i.e. how often the model is traced."""

    calls = 0

    def call(self, inputs):
        CallCounter.calls += 1
        return inputs


def alpha_meter(learning_rate=0.0, **compile_options):
    """A model whose output and loss are α: its original branch emits 1, the pruned one 0."""
    inputs = keras.Input((1,))
    x = CallCounter()(inputs)
    original = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(x)
    pruned = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(x)
    blend = AlphaBlend(name="blend")([Alpha(name="alpha")(inputs), original, pruned])
    model = keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(blend))
    model.compile(keras.optimizers.SGD(learning_rate), "mean_absolute_error", **compile_options)
    return model


def train(model, callback, epochs, batches=4, validation=True, **options):
    """Fits an α meter; every batch holds one sample. Returns the history."""
    data = np.ones((batches, 1), "float32"), np.zeros((batches, 1), "float32")
    options.setdefault("callbacks", [callback])
    options.setdefault("validation_data", data if validation else None)
    return model.fit(*data, batch_size=1, epochs=epochs, verbose=0, **options).history


def feed(callback, monitor, values, model=None):
    """Calls `on_epoch_end` with one value of the metric per epoch; returns α of each epoch."""
    model = model or alpha_meter()
    callback.set_model(model)
    callback.on_train_begin()
    alphas = []
    for epoch, value in enumerate(values):
        logs = {"loss": 0.0, "val_loss": 0.0, monitor: value}
        callback.on_epoch_end(epoch, logs)
        alphas.append(logs["alpha"])
    return alphas
