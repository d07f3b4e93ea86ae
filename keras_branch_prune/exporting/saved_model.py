"""Export to a SavedModel, the format that TensorFlow serves."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import tensorflow as tf

from keras_branch_prune.common import require_tensorflow
from keras_branch_prune.exporting.base import Format
from keras_branch_prune.exporting.inference_form import inference_form
from keras_branch_prune.exporting.serving import (
    SignatureNames,
    fits_as_constants,
    serving_function,
    serving_names,
)
from keras_branch_prune.exporting.verification import verify_reloaded
from keras_branch_prune.files import atomic_write

SIGNATURE = "serving_default"
FORMAT = Format(
    title="a SavedModel",
    noun="a SavedModel",
    runtime="saved_model",
    export=lambda model, path, compared: export_saved_model(
        model, path, verify=False, freeze=all(map(fits_as_constants, compared))
    ),
    marker="saved_model.pb",
    devices=("cpu", "gpu"),
)


def export_saved_model(
    model: keras.Model, path: str | os.PathLike[str], verify: bool = True, freeze: bool = True
) -> Path:
    """Writes a model as a TensorFlow SavedModel for inference; needs only TensorFlow to be used.

    The signature `serving_default` takes the model's inputs by name (other characters than letters,
    digits and `_` become `_`) and returns its outputs by name (a dict of outputs keeps its keys; a
    repeated name gets a suffix `_1`). Dimensions that are open in the model, such as the batch,
    stay open. BatchNormalization is folded and Dropout removed, see `inference_form`. The weights
    are stored once. An existing SavedModel at `path` is replaced, and only by a complete one.

    Example:
        >>> inputs = keras.Input((4,), name="features")
        >>> model = keras.Model(inputs, keras.layers.Dense(2, name="scores")(inputs))
        >>> path = keras_branch_prune.export_saved_model(model, "scores-model")
        >>> loaded = tf.saved_model.load(path)
        >>> loaded.signatures["serving_default"](features=tf.ones((3, 4)))["scores"].shape
        TensorShape([3, 2])

    Args:
        model: A built functional or Sequential model.
        path: Folder to write.
        verify: Whether to reload the result in a fresh process that imports TensorFlow only, and
            to compare it with `model` on random inputs, at batch 1 and 3 (takes some seconds):
            max|difference| / max|output| must be ≤ 1e-5 per output (1e-2 for float16, 1e-1 for
            bfloat16). A model whose own rounding error, its distance from the same model in
            float64, is larger than that may be off by four times this error, up to 1e-3. The same
            holds for the other formats.
        freeze: Whether the weights become constants of the graph, whose kernels TensorFlow packs
            for the hardware once. As variables they take a tenth of the RAM, but are packed at
            every call, which costs most at batch 1. Models with more than 256 MiB of weights or
            with lookup tables keep variables in any case.

    Returns:
        The path of the folder.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, has no functional graph or contains a quantized layer.
        FileExistsError: If `path` is a file, or a folder with other content than a SavedModel.
        ExportError: If the verification fails; nothing is written then.
        RuntimeError: If Keras does not run on TensorFlow.
    """
    require_tensorflow(f"The export to {FORMAT.title}")
    target = FORMAT.target(path)
    form = inference_form(model)
    names = serving_names(form)
    with atomic_write(target) as temporary:
        _write(form, names, temporary, freeze)
        if verify:
            verify_reloaded(model, names, temporary, FORMAT.runtime)
    return target


def _write(form: keras.Model, names: SignatureNames, folder: Path, freeze: bool) -> None:
    """Writes a model in inference form, without verifying it."""
    module = tf.Module()
    signature, variables = serving_function(form, names, freeze)
    if variables is not None:
        # TensorFlow saves only what it reaches from the module, lookup tables too.
        module.model_variables = variables
        module.tables = [layer for layer in form.layers if not layer.weights]
    tf.saved_model.save(module, str(folder), signatures={SIGNATURE: signature})
