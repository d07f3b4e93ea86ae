"""How far two models are apart that should compute the same."""

from __future__ import annotations

import keras
import numpy as np


def largest_difference(first: keras.Model, second: keras.Model, inputs: np.ndarray) -> float:
    """Returns the largest difference between the outputs of two models, computed in float64.

    In float32 the rounding of each of two deep models may exceed what merging has changed; here
    only the weights are rounded, as they are stored.

    Args:
        first: A functional model of one input and one output; it is not changed.
        second: Another one, with the same shapes.
        inputs: What both are applied to.
    """
    wide = inputs.astype("float64")
    one, other = (np.asarray(_in_float64(model)(wide)) for model in (first, second))
    return float(np.abs(one - other).max())


def _in_float64(model: keras.Model) -> keras.Model:
    """Returns a copy that computes in float64, with the same weights."""

    def convert(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    copy = keras.models.clone_model(model, clone_function=convert)
    copy.set_weights(model.get_weights())
    return copy
