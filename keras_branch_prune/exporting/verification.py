"""Compares an exported model, reloaded in a fresh process, with the Keras model it came from."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_branch_prune.exporting.serving import SignatureNames
from keras_branch_prune.graph import (
    build_model,
    canonical,
    compute_in_float64,
    draw_inputs,
    relative_error,
)
from keras_branch_prune.runtimes import Worker, WorkerError, start_worker

_BATCH_SIZES = (1, 3)
_TIMEOUT_S = 900
_UNUSABLE = "The exported model could not be used in a fresh process; nothing was written."

_TOLERANCES = {"float16": 1e-2, "bfloat16": 1e-1}
_TOLERANCE = 1e-5

# Some models amplify rounding on random inputs. Their exports may be off by this factor times what
# the model itself is off from float64, but by no more than `_LARGEST_TOLERANCE`.
_ROUNDING_FACTOR = 4
_LARGEST_TOLERANCE = 1e-3


class ExportError(RuntimeError):
    """A model could not be converted or reloaded, or the result differs from the Keras model.

    Nothing was written then. Where only the verification is in the way, export with
    `verify=False`, and compare on inputs of your own.
    """


def verify_reloaded(
    model: keras.Model, names: SignatureNames, path: Path, runtime: str, tolerance: float = 0.0
) -> None:
    """Compares an exported model, run in a fresh process, with the model on random inputs.

    The inputs are batches of 1 and of 3, or of what the model asks for.

    Args:
        model: What was exported.
        names: Names of the inputs and outputs in the exported model.
        path: The exported model.
        runtime: What runs it: a key of `runtimes.table.RUNTIMES`.
        tolerance: The least tolerance, relative to the largest output; the model's dtypes may
            raise it.

    Raises:
        ExportError: If it cannot be run, or an output differs by more than the tolerance, and by
            more than the model's own rounding explains.
        ValueError: If there are no random values for an input.
    """
    _refuse_strings(model)
    # On the CPU, as in the fresh process: a GPU may round the factors of a convolution to TF32.
    with tf.device("CPU:0"):
        inputs = [draw_inputs(model, batch, seed=batch) for batch in _BATCH_SIZES]
        outputs = [model(case, training=False) for case in inputs]
    results = _reload_and_run(path, [_to_arrays(case) for case in inputs], names, runtime)
    tolerance = max(tolerance, _tolerance(model))
    for case, expected, actual in zip(inputs, outputs, results, strict=True):
        errors = [_error(*pair) for pair in zip(_to_arrays(expected), actual, strict=True)]
        allowed = tolerance
        # Only then, for float64 takes long.
        if max(errors) > tolerance:
            rounding = _ROUNDING_FACTOR * _rounding_error(model, case, expected)
            allowed = max(tolerance, min(rounding, _LARGEST_TOLERANCE))
        _refuse_errors(model.name, names.outputs, errors, allowed)


def _error(expected: np.ndarray, actual: np.ndarray) -> float:
    return relative_error(expected, actual) if expected.shape == actual.shape else float("inf")


def _rounding_error(model: keras.Model, inputs: Any, outputs: Any) -> float:
    """Returns how far a model's outputs are from those in float64; 0 if they cannot be had."""
    exact = compute_in_float64(build_model(canonical(model)), inputs)
    return 0.0 if exact is None else relative_error(exact, outputs)


def _refuse_errors(
    model: str, names: Sequence[str], errors: Sequence[float], allowed: float
) -> None:
    for name, error in zip(names, errors, strict=True):
        if error > allowed:
            raise ExportError(
                f"The exported model differs from '{model}' at output '{name}': "
                f"max|difference| / max|output| = {error:.2g}, allowed {allowed:.0g}. "
                "Nothing was written."
            )


def _refuse_strings(model: keras.Model) -> None:
    for tensor in model.inputs:
        if tensor.dtype == "string":
            raise ValueError(
                f"There are no random values for the input '{tensor.name}' of dtype string. Pass "
                "`verify=False` to export the model without verification."
            )


def _to_arrays(tensors: Any) -> list[np.ndarray]:
    """Returns tensors, flat, in dtypes that NumPy can store."""
    return [
        keras.ops.convert_to_numpy(
            keras.ops.cast(x, "float32")
            if keras.backend.standardize_dtype(x.dtype) == "bfloat16"
            else x
        )
        for x in tree.flatten(tensors)
    ]


def _tolerance(model: keras.Model) -> float:
    dtypes = {value.dtype for call in canonical(model).calls for value in call.outputs}
    return max((_TOLERANCES.get(dtype, _TOLERANCE) for dtype in dtypes), default=_TOLERANCE)


def _reload_and_run(
    path: Path, cases: Sequence[Sequence[np.ndarray]], names: SignatureNames, runtime: str
) -> list[list[np.ndarray]]:
    """Runs the exported model in a fresh process that knows neither the model nor this package."""
    try:
        with (
            start_worker("The process", runtime, path, _TIMEOUT_S) as worker,
            tempfile.TemporaryDirectory() as scratch,
        ):
            return [_run_batch(worker, arrays, names, Path(scratch)) for arrays in cases]
    except WorkerError as error:
        raise ExportError(f"{_UNUSABLE} {error}") from error


def _run_batch(
    worker: Worker, arrays: Sequence[np.ndarray], names: SignatureNames, scratch: Path
) -> list[np.ndarray]:
    """Returns the outputs for one batch of inputs; arrays are exchanged as files."""
    source, target = scratch / "inputs.npz", scratch / "outputs.npz"
    np.savez(source, *arrays)
    found = worker.ask("run", names=names.inputs, source=str(source), target=str(target))
    with np.load(target) as stored:
        outputs = dict(zip(found, stored.values(), strict=True))
    # Runtimes return the outputs in an order of their own.
    if set(outputs) != set(names.outputs):
        raise ExportError(
            f"{_UNUSABLE} It has the outputs {sorted(outputs)} instead of {sorted(names.outputs)}."
        )
    return [outputs[name] for name in names.outputs]
