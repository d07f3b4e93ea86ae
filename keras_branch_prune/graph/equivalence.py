"""Checks that two models compute the same."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference, relative to the largest output, that counts as rounding, by dtype."""

_DEFAULT_SIZE = 32


def draw_inputs(model: keras.Model, batch_size: int, seed: int = 0) -> Any:
    """Returns random inputs for a model, in its input structure.

    Float inputs are standard normal. Integer inputs are 0 or 1, which any embedding and any mask
    takes. Open dimensions have size 32.

    Args:
        model: A functional model.
        batch_size: Size of the first dimension, unless the model fixes it.
        seed: Seed of the random numbers.
    """
    rng = np.random.default_rng(seed)

    def draw(tensor: keras.KerasTensor) -> Any:
        batch, *shape = tensor.shape
        size = (batch or batch_size, *(_DEFAULT_SIZE if n is None else n for n in shape))
        floating = "float" in tensor.dtype
        return ops.cast(
            rng.standard_normal(size) if floating else rng.integers(0, 2, size), tensor.dtype
        )

    # A Sequential model has no `input`: it was never called itself.
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return tree.map_structure(draw, inputs)


def relative_error(expected: Any, actual: Any) -> float:
    """Returns the largest `max |expected − actual| / max |expected|` over all outputs.

    Args:
        expected: Tensors or arrays in any structure.
        actual: The same structure.

    Returns:
        A number ≥ 0; infinity if anything is NaN or infinite.

    Example:
        >>> from keras_branch_prune.graph import relative_error
        >>> relative_error(np.array([1.0, -4.0]), np.array([1.0, -3.0]))
        0.25
    """
    worst = 0.0
    for one, other in zip(tree.flatten(expected), tree.flatten(actual), strict=True):
        a, b = (np.asarray(ops.convert_to_numpy(x), dtype=np.float64) for x in (one, other))
        scale = np.abs(a).max(initial=0.0) or 1.0
        error = np.abs(a - b).max(initial=0.0) / scale
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return float(worst)


def check_equivalent(expected: keras.Model, actual: keras.Model, batch_size: int = 2) -> float:
    """Compares two flat models on random inputs.

    A model may amplify rounding on inputs it was not trained for. If the two differ by more than
    `TOLERANCES` allows, they are therefore compared once more in float64.

    Args:
        expected: A functional model without nested models.
        actual: Another, of the same inputs and outputs.
        batch_size: Number of random samples.

    Returns:
        The relative error, see `relative_error`.

    Raises:
        ValueError: If it is more than rounding explains (see `TOLERANCES`).
    """
    inputs = draw_inputs(expected, batch_size)
    error = relative_error(expected(inputs, training=False), actual(inputs, training=False))
    # A model is as exact as its least exact layer.
    dtypes = [layer.compute_dtype for layer in expected.layers]
    tolerance = max(TOLERANCES.get(dtype, max(TOLERANCES.values())) for dtype in dtypes)
    # Not `error > tolerance`, which is false for NaN.
    if not error <= tolerance:
        error = min(error, _error_in_float64(expected, actual, inputs))
    if not error <= tolerance:
        raise ValueError(
            f"'{actual.name}' must compute what '{expected.name}' computes. Received: outputs that "
            f"differ by {error:.2g} of the largest output (allowed: {tolerance:.0e})"
        )
    return error


def _error_in_float64(expected: keras.Model, actual: keras.Model, inputs: Any) -> float:
    """Returns the relative error in float64, or infinity if a layer insists on its own dtype."""
    outputs = [compute_in_float64(model, inputs) for model in (expected, actual)]
    return math.inf if any(x is None for x in outputs) else relative_error(*outputs)


def compute_in_float64(model: keras.Model, inputs: Any) -> Any:
    """Returns what a flat model computes at inference in float64, with the weights it has.

    Args:
        model: A flat functional or Sequential model; it is not changed.
        inputs: Inputs as it takes them.

    Returns:
        Its outputs, or `None` if a layer or an operation insists on its own dtype.
    """
    wide = tree.map_structure(_cast_to_float64, inputs)
    try:
        return _copy_in_float64(model)(wide, training=False)
    except (TypeError, ValueError, tf.errors.InvalidArgumentError):
        return None


def _cast_to_float64(tensor: Any) -> Any:
    floating = "float" in keras.backend.standardize_dtype(tensor.dtype)
    return ops.cast(tensor, "float64") if floating else tensor


def _copy_in_float64(model: keras.Model) -> keras.Model:
    """Returns a copy of a flat model that computes in float64, with the same weights."""

    def convert(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    copy = keras.models.clone_model(model, clone_function=convert)
    copy.set_weights(model.get_weights())
    return copy
