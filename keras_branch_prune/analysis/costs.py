"""Analytic costs of a model: parameters, and multiply-accumulates (MACs) per sample.

MACs are counted for every linear map: dense, convolutional (grouped, strided, dilated, transposed,
depthwise, separable), einsum and attention layers with heads, once per use of a shared layer.
Biases, normalizations, activations, pooling and element-wise operations are not counted. A product
with the zeros of a padded border counts like any other, as in TensorFlow's profiler.

What one layer costs, its rule knows. A layer without a rule that might multiply (it has a matrix
among its weights, or multiplies tensors) is never guessed: it is reported as uncounted.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence

import keras

from keras_branch_prune.common import require_integer
from keras_branch_prune.graph import Graph, Unit, Value, build_model, canonical
from keras_branch_prune.rules import layer_macs

InputShape = Sequence[int] | Mapping[str, Sequence[int]]
"""Shape of a sample without the batch dimension, or one such shape per input name."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a model costs.

    Args:
        parameters: Number of all weights, trainable or not; shared ones once.
        macs: Multiply-accumulates per sample of all layers in `layers`.
        layers: MACs per sample of each layer that multiplies, all its uses together, by name.
        uncounted: Names of the layers that may multiply and whose cost is not known.
    """

    parameters: int
    macs: int
    layers: Mapping[str, int]
    uncounted: tuple[str, ...] = ()


def count_parameters(model: keras.Model) -> int:
    """Returns the number of weights of a built model: all of them, shared ones once.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    if not model.built:
        raise ValueError(f"`model` must be built. Received: the unbuilt model '{model.name}'")
    return int(model.count_params())


def count_macs(model: keras.Model, input_shape: InputShape | None = None) -> int:
    """Returns the multiply-accumulates that one sample takes; see the module for what is counted.

    Args:
        model: A built functional or Sequential model.
        input_shape: Shape of one sample without the batch dimension, such as `(224, 224, 3)`, or a
            dict of them by input name. Needed only where the model leaves a dimension open.

    Returns:
        The number of MACs per sample. A warning names the layers whose cost is not known.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not built or has no functional graph, if a dimension that
            matters is open, or if `input_shape` does not fit the model.
    """
    costs = model_costs(model, input_shape)
    if costs.uncounted:
        warnings.warn(
            f"The MACs of these layers of '{model.name}' are not known and not counted: "
            f"{', '.join(costs.uncounted)}.",
            stacklevel=2,
        )
    return costs.macs


def model_costs(model: keras.Model, input_shape: InputShape | None = None) -> Costs:
    """Returns the costs of a model, layer by layer; arguments and errors as in `count_macs`."""
    parameters = count_parameters(model)
    graph = canonical(model)
    if input_shape is not None:
        graph = _with_input_shape(graph, input_shape)
    return dataclasses.replace(graph_costs(graph), parameters=parameters)


def graph_parameters(graph: Graph) -> int:
    """Returns the number of weights of a canonical graph, shared ones once."""
    weights = {id(weight): weight for call in graph.calls for weight in call.unit.weights}
    return sum(math.prod(weight.shape) for weight in weights.values())


def graph_costs(graph: Graph) -> Costs:
    """Returns the costs of a canonical graph, layer by layer.

    Raises:
        ValueError: If a dimension that matters is open.
    """
    macs: dict[str, int] = {}
    uncounted: dict[str, None] = {}
    for call in graph.calls:
        count = layer_macs(call)
        if count is None:
            uncounted[call.unit.name] = None
        elif count:
            macs[call.unit.name] = macs.get(call.unit.name, 0) + count
    return Costs(graph_parameters(graph), sum(macs.values()), macs, tuple(uncounted))


def _with_input_shape(graph: Graph, input_shape: InputShape) -> Graph:
    """Returns the graph with open dimensions filled in."""
    names = [unit.name for unit in graph.input_units]
    shapes = input_shape if isinstance(input_shape, Mapping) else dict.fromkeys(names, input_shape)
    if set(shapes) != set(names) or (len(names) > 1 and shapes is not input_shape):
        raise ValueError(
            "`input_shape` must be one shape per model input, as a dict by name if there are "
            f"several: {names}. Received: {input_shape}"
        )
    units = tuple(
        unit.replace(config={"batch_shape": (None, *_checked(unit, value, shapes[unit.name]))})
        for unit, value in zip(graph.input_units, graph.input_values, strict=True)
    )
    return canonical(build_model(dataclasses.replace(graph, input_units=units)))


def _checked(unit: Unit, value: Value, shape: Sequence[int]) -> tuple[int, ...]:
    open_shape = value.shape[1:]
    fits = len(shape) == len(open_shape) and all(
        dim in (None, size) for dim, size in zip(open_shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`input_shape` must fit input '{unit.name}', {open_shape}. Received: {tuple(shape)}"
        )
    return tuple(require_integer("input_shape", size, at_least=1) for size in shape)
