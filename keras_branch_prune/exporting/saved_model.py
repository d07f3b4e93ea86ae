"""Exports of a model for serving, each compared with the Keras model after a fresh reload."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import tree
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from keras_branch_prune.exporting.inference_form import inference_form
from keras_branch_prune.exporting.verification import ExportError, Names, verify_reloaded
from keras_branch_prune.files.atomic import atomic_write
from keras_branch_prune.graph.rewriting import unique_name

__all__ = ["ExportError", "export_saved_model"]

SIGNATURE = "serving_default"

# TensorFlow keeps many copies of constants: a process needs about 17 times their size. (The limit
# of the format, 2 GB, is far above.)
_MAX_FROZEN_BYTES = 256 * 2**20


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    verify: bool = True,
    freeze: bool = True,
) -> Path:
    """Writes a model as a TensorFlow SavedModel for inference; needs only TensorFlow to be used.

    The signature `serving_default` takes the model's inputs by name (other characters than letters,
    digits and `_` become `_`) and returns its outputs by name (a dict of outputs keeps its keys; a
    repeated name gets a suffix `_1`). Dimensions that are open in the model, such as the batch,
    stay open. BatchNormalization is folded and Dropout removed, see `inference_form`. The weights
    are stored once. An existing SavedModel at `path` is replaced, and only by a complete one.

    Example:
        >>> import keras, tensorflow as tf
        >>> inputs = keras.Input((4,), name="features")
        >>> model = keras.Model(inputs, keras.layers.Dense(2, name="scores")(inputs))
        >>> loaded = tf.saved_model.load(export_saved_model(model, "scores-model"))
        >>> loaded.signatures["serving_default"](features=tf.ones((3, 4)))["scores"].shape
        TensorShape([3, 2])

    Args:
        model: A built functional or Sequential model.
        path: Folder to write.
        verify: Whether to reload the result in a fresh process that imports TensorFlow only, and
            to compare it with `model` on random inputs, at batch 1 and 3 (takes some seconds): the
            bar is max|difference| / max|output| ≤ 1e-5 per output (1e-2 for float16, 1e-1 for
            bfloat16). Where the model itself is further than that from float64, the bar is four
            times as far, and 1e-3 at most; so it is for the other formats.
        freeze: Whether the weights become constants of the graph, which TensorFlow prepares for the
            hardware once. As variables they take a tenth of the RAM, but are prepared at every
            call, which costs most at batch 1. Models with more than 256 MiB of weights or with
            lookup tables keep variables in any case.

    Returns:
        The path of the folder.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, has no functional graph or contains a quantized layer.
        FileExistsError: If `path` is a file, or a folder with other content than a SavedModel.
        ExportError: If the verification fails; nothing is written then.
        RuntimeError: If Keras does not run on TensorFlow.
    """
    require_tensorflow("a SavedModel")
    target = folder_target(path, "saved_model.pb", "a SavedModel")
    form = inference_form(model)
    names = serving_names(form)
    with atomic_write(target) as temporary:
        _write(form, names, Path(temporary), freeze)
        if verify:
            verify_reloaded(model, names, Path(temporary))
    return target


def require_tensorflow(title: str) -> None:
    """Raises `RuntimeError` unless Keras runs on TensorFlow, from which all exports start."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"The export to {title} needs the TensorFlow backend of Keras. "
            f"Received: keras.backend.backend() = '{keras.backend.backend()}'"
        )


def serving_names(form: keras.Model) -> Names:
    """Returns the names of inputs and outputs of an exported model, see `export_saved_model`."""
    return Names(_input_names(form), _output_names(form))


def _input_names(form: keras.Model) -> list[str]:
    """Returns the names of the inputs as TensorFlow allows them: letters, digits and `_`."""
    names = (re.sub(r"[^A-Za-z0-9_]", "_", tensor.name) for tensor in form.inputs)
    taken: set[str] = set()
    return [unique_name(name if name[0].isalpha() else f"arg_{name}", taken) for name in names]


def _output_names(form: keras.Model) -> list[str]:
    """Returns unique names of the outputs: the keys of a dict, or the names of the layers."""
    indices = tree.pack_sequence_as(form.output, list(range(len(form.outputs))))
    if isinstance(indices, dict) and set(indices.values()) == set(range(len(form.outputs))):
        return sorted(indices, key=indices.__getitem__)
    taken: set[str] = set()
    return [unique_name(name, taken) for name in form.output_names]


def folder_target(path: str | os.PathLike[str], file: str, title: str) -> Path:
    """Returns the path of a folder to write, or raises if something else is there.

    Args:
        path: The folder.
        file: A file that shows that a folder is an older export.
        title: What messages call such a folder.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"`path` must be a folder. Received: the file '{target}'")
    if target.exists() and any(target.iterdir()) and not (target / file).is_file():
        raise FileExistsError(
            f"`path` must be new, empty or {title}, which is replaced. Received: the folder "
            f"'{target}' with other content"
        )
    return target


def _write(form: keras.Model, names: Names, folder: Path, freeze: bool) -> None:
    """Writes a model in inference form as it is."""
    module = tf.Module()
    signature, variables = serving_function(form, names, freeze)
    if variables is not None:
        module.model_variables = variables
        module.tables = [layer for layer in form.layers if not layer.weights]
    tf.saved_model.save(module, str(folder), signatures={SIGNATURE: signature})


def serving_function(
    form: keras.Model, names: Names, freeze: bool, portable: bool = False
) -> tuple[Any, list[Any] | None]:
    """Returns a model as a concrete function of named tensors.

    Args:
        form: A model in inference form.
        names: Names of its inputs and outputs.
        freeze: Whether the weights become constants, if they may; see `export_saved_model`.
        portable: Whether the function is for other runtimes than TensorFlow, and so leaves nothing
            to XLA, the compiler of TensorFlow.

    Returns:
        The concrete function, which takes the inputs by name and returns a dict, and the variables
        that it needs: `None` if they became constants.
    """
    specs = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for name, tensor in zip(names.inputs, form.inputs, strict=True)
    }
    run, variables = inference_function(form, list(specs.values()), freeze, portable)

    @tf.function(autograph=False)
    def serve(**tensors: Any) -> dict[str, Any]:
        results = run(*[tensors[name] for name in specs])
        return dict(zip(names.outputs, results, strict=True))

    return serve.get_concrete_function(**specs), variables


def inference_function(
    form: keras.Model, specs: Sequence[Any], freeze: bool = True, portable: bool = False
) -> tuple[Any, list[Any] | None]:
    """Returns a model as a function, as the exported model computes it.

    Args:
        form: A model in inference form, of any weights.
        specs: One `tf.TensorSpec` per input.
        freeze: Whether the weights become constants, if they may; see `export_saved_model`.
        portable: Whether the function is for other runtimes than TensorFlow, and so leaves nothing
            to XLA, the compiler of TensorFlow.

    Returns:
        The function, which takes the inputs flat and returns a list of tensors, and the variables
        that it needs: `None` if they became constants.
    """

    @tf.function(autograph=False)
    def predict(*tensors: Any) -> list[Any]:
        results = form(tree.pack_sequence_as(form.input, tensors), training=False)
        return [tf.identity(tensor) for tensor in tree.flatten(results)]

    with _nested_functions_inlined() if portable else nullcontext():
        concrete = predict.get_concrete_function(*specs)
    if freeze and fits_frozen(form) and _may_be_frozen(concrete):
        return frozen(concrete), None
    return predict, list(concrete.variables)


@contextmanager
def _nested_functions_inlined() -> Iterator[None]:
    """Traces what a `tf.function` calls as if it were written there, such as what XLA compiles."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def fits_frozen(model: keras.Model) -> bool:
    """Whether `export_saved_model` turns the weights into constants if it may."""
    sizes = (math.prod(x.shape) * tf.as_dtype(x.dtype).size for x in model.weights)
    return sum(sizes) <= _MAX_FROZEN_BYTES


def _may_be_frozen(concrete: Any) -> bool:
    """Whether a function needs nothing but variables and values: a lookup table is neither."""
    variables = {id(variable.handle) for variable in concrete.variables}
    return all(
        id(tensor) in variables or tensor.dtype not in (tf.resource, tf.variant)
        for tensor in concrete.captured_inputs
    )


def frozen(concrete: Any) -> Callable[..., Sequence[Any]]:
    """Returns the function with variables and captured values turned into constants of its graph.

    It takes and returns the tensors flat, as TensorFlow flattens those of `concrete`.
    """
    constant = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    graph_def = constant.graph.as_graph_def()
    sources = [tensor.name for tensor in constant.inputs]
    targets = [tensor.name for tensor in constant.outputs]

    def run(*tensors: Any) -> Sequence[Any]:
        feeds = dict(zip(sources, tensors, strict=True))
        return tf.graph_util.import_graph_def(graph_def, feeds, targets, name="")

    return run
