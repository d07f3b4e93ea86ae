"""How far two models are apart that should compute the same."""

from __future__ import annotations

import keras
import numpy as np

from keras_branch_prune.graph import outputs_in_float64


def largest_difference(first: keras.Model, second: keras.Model, inputs: np.ndarray) -> float:
    """Returns the largest difference between the outputs of two models, computed in float64.

    In float32 the rounding of each of two deep models may exceed what merging has changed; here
    only the weights are rounded, as they are stored.

    Args:
        first: A functional model of one input and one output; it is not changed.
        second: Another one, with the same shapes.
        inputs: What both are applied to.
    """
    one, other = (np.asarray(outputs_in_float64(model, inputs)) for model in (first, second))
    return float(np.abs(one - other).max())
