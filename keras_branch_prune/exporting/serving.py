"""A model as TensorFlow functions with named inputs and outputs."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import keras
import tensorflow as tf
from keras import tree
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from keras_branch_prune.graph import unique_name

# TensorFlow keeps many copies of constants: a process needs about 17 times their size. (The limit
# of the format, 2 GB, is far above.)
_MAX_FROZEN_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class SignatureNames:
    """The names in a signature, in the order of the model's flat inputs and outputs."""

    inputs: list[str]
    outputs: list[str]


def serving_names(form: keras.Model) -> SignatureNames:
    """Returns the names of the inputs and outputs of a model as `export_saved_model` gives them."""
    return SignatureNames(_input_names(form), _output_names(form))


def _input_names(form: keras.Model) -> list[str]:
    """Returns the names of the inputs as TensorFlow allows them: letters, digits and `_`."""
    names = (re.sub(r"[^A-Za-z0-9_]", "_", tensor.name) for tensor in form.inputs)
    taken: set[str] = set()
    # TensorFlow makes the names arguments of a function, and renames those that cannot be.
    return [unique_name(name if name[0].isalpha() else f"arg_{name}", taken) for name in names]


def _output_names(form: keras.Model) -> list[str]:
    """Returns unique names of the outputs: the keys of a dict, or the names of the layers."""
    indices = tree.pack_sequence_as(form.output, list(range(len(form.outputs))))
    if isinstance(indices, dict) and set(indices.values()) == set(range(len(form.outputs))):
        return sorted(indices, key=indices.__getitem__)
    taken: set[str] = set()
    return [unique_name(name, taken) for name in form.output_names]


def serving_function(
    form: keras.Model, names: SignatureNames, freeze: bool, portable: bool = False
) -> tuple[Any, list[Any] | None]:
    """Returns a model as a concrete function of named tensors.

    Args:
        form: A model in inference form.
        names: Names of its inputs and outputs.
        freeze: Whether the weights become constants, if they may; see `export_saved_model`.
        portable: See `inference_function`.

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
    """Returns a model as the function that its SavedModel computes.

    Args:
        form: A model in inference form.
        specs: One `tf.TensorSpec` per input.
        freeze: Whether the weights become constants, if they may; see `export_saved_model`.
        portable: Whether the function is for a converter: it then contains no calls of compiled
            functions, which only TensorFlow's compiler XLA can run.

    Returns:
        The function, which takes the inputs flat and returns a list of tensors, and the variables
        that it needs: `None` if they became constants.
    """

    @tf.function(autograph=False)
    def predict(*tensors: Any) -> list[Any]:
        results = form(tree.pack_sequence_as(form.input, tensors), training=False)
        return [tf.identity(tensor) for tensor in tree.flatten(results)]

    with _inline_nested_functions() if portable else nullcontext():
        concrete = predict.get_concrete_function(*specs)
    if freeze and fits_as_constants(form) and _may_be_frozen(concrete):
        return freeze_function(concrete), None
    return predict, list(concrete.variables)


@contextmanager
def _inline_nested_functions() -> Iterator[None]:
    """Traces functions that a function calls, such as those for XLA, as part of it."""
    # `get_concrete_function` traces in any case, but what it calls then runs as plain Python.
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def fits_as_constants(model: keras.Model) -> bool:
    """Returns whether the weights are few enough to become constants of an exported graph."""
    sizes = (math.prod(x.shape) * tf.as_dtype(x.dtype).size for x in model.weights)
    return sum(sizes) <= _MAX_FROZEN_BYTES


def _may_be_frozen(concrete: Any) -> bool:
    """Returns whether all that a function needs can become constants: a lookup table cannot."""
    variables = {id(variable.handle) for variable in concrete.variables}
    return all(
        id(tensor) in variables or tensor.dtype not in (tf.resource, tf.variant)
        for tensor in concrete.captured_inputs
    )


def freeze_function(concrete: Any) -> Callable[..., Sequence[Any]]:
    """Returns the function with variables and captured values turned into constants of its graph.

    It takes and returns lists of tensors, in the order in which TensorFlow flattens the inputs and
    outputs of `concrete`.
    """
    constant = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    graph_def = constant.graph.as_graph_def()
    sources = [tensor.name for tensor in constant.inputs]
    targets = [tensor.name for tensor in constant.outputs]

    def run(*tensors: Any) -> Sequence[Any]:
        feeds = dict(zip(sources, tensors, strict=True))
        return tf.graph_util.import_graph_def(graph_def, feeds, targets, name="")

    return run
