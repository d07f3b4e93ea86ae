"""Compares an exported model, reloaded in a fresh process, with the Keras model it came from."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_branch_prune.canonical import canonical
from keras_branch_prune.equivalence import random_inputs, relative_error

_BATCH = 2
_TIMEOUT_S = 900
_ERROR_TAIL = 2000

_TOLERANCES = {"float16": 1e-2, "bfloat16": 1e-1}
_TOLERANCE = 1e-5

_SCRIPT = """
import json, sys
import numpy as np
import tensorflow as tf

folder, input_file, output_file, names = sys.argv[1:]
names = json.loads(names)
loaded = tf.saved_model.load(folder)
serve = loaded.signatures["serving_default"]
specs = serve.structured_input_signature[1]
with np.load(input_file) as arrays:
    inputs = {
        name: tf.cast(tf.constant(arrays[f"arr_{index}"]), specs[name].dtype)
        for index, name in enumerate(names["inputs"])
    }
outputs = serve(**inputs)
if set(outputs) != set(names["outputs"]):
    raise SystemExit(f"outputs {sorted(outputs)} instead of {sorted(names['outputs'])}")
outputs = [outputs[name] for name in names["outputs"]]
outputs = [tf.cast(x, tf.float32) if x.dtype == tf.bfloat16 else x for x in outputs]
np.savez(output_file, *[x.numpy() for x in outputs])
"""


class ExportError(RuntimeError):
    """An exported model could not be reloaded, or differs from the Keras model."""


@dataclasses.dataclass(frozen=True)
class Names:
    """The names in a signature, in the order of the model's flat inputs and outputs."""

    inputs: list[str]
    outputs: list[str]


def verify_reloaded(model: keras.Model, names: Names, folder: Path) -> None:
    """Compares a SavedModel, loaded in a fresh process, with the model on random inputs.

    Args:
        model: What was exported.
        names: Names of the inputs and outputs in the signature.
        folder: The SavedModel.

    Raises:
        ExportError: If it cannot be run, or an output differs by more than the bar.
        ValueError: If there are no random values for an input.
    """
    _refuse_strings(model)
    # On the CPU, as in the fresh process: a GPU may round the factors of a convolution to TF32.
    with tf.device("CPU:0"):
        inputs = random_inputs(model, _BATCH)
        outputs = model(inputs, training=False)
    actual = _reload_and_run(folder, [_array(tensor) for tensor in tree.flatten(inputs)], names)
    expected = [_array(tensor) for tensor in tree.flatten(outputs)]
    tolerance = _tolerance(model)
    for name, one, other in zip(names.outputs, expected, actual, strict=True):
        error = relative_error(one, other) if one.shape == other.shape else float("inf")
        if error > tolerance:
            raise ExportError(
                f"The exported model differs from '{model.name}' at output '{name}': "
                f"max|difference| / max|output| = {error:.2g}, allowed {tolerance:.0g}. "
                "Nothing was written."
            )


def _refuse_strings(model: keras.Model) -> None:
    for tensor in model.inputs:
        if tensor.dtype == "string":
            raise ValueError(
                f"There are no random values for the input '{tensor.name}' of dtype string. Pass "
                "`verify=False` to export the model without verification."
            )


def _array(tensor: Any) -> np.ndarray:
    """Returns a tensor in a dtype that NumPy can store."""
    bfloat16 = keras.backend.standardize_dtype(tensor.dtype) == "bfloat16"
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32") if bfloat16 else tensor)


def _tolerance(model: keras.Model) -> float:
    dtypes = {value.dtype for call in canonical(model).calls for value in call.outputs}
    return max((_TOLERANCES.get(dtype, _TOLERANCE) for dtype in dtypes), default=_TOLERANCE)


def _reload_and_run(folder: Path, inputs: Sequence[np.ndarray], names: Names) -> list[np.ndarray]:
    """Runs the SavedModel's signature in a fresh process that knows neither the model nor us."""
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "inputs.npz"), Path(scratch, "outputs.npz")
        np.savez(source, *inputs)
        arguments = [str(folder), str(source), str(target), json.dumps(dataclasses.asdict(names))]
        try:
            process = subprocess.run(
                [sys.executable, "-c", _SCRIPT, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"The exported model gave no answer in {error.timeout} s.") from error
        if process.returncode != 0:
            raise ExportError(
                "The exported model could not be used in a fresh process; nothing was written. "
                f"It ended with:\n{process.stderr[-_ERROR_TAIL:]}"
            )
        with np.load(target) as arrays:
            return [arrays[f"arr_{index}"] for index in range(len(names.outputs))]
