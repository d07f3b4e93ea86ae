"""Counts the parameters of a model and its multiply-accumulates (MACs) per sample.

What a layer costs is known by its rule. One without a rule that may multiply (it has a matrix among
its weights, or multiplies tensors) is not guessed but reported as uncounted.
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
    """The costs of a model.

    Args:
        parameters: Number of all weights, trainable or not; shared ones once.
        macs: Multiply-accumulates per sample of all layers in `layers`.
        layers: MACs per sample of each layer that multiplies, all its uses together, by name.
        uncounted: Names of the layers that may multiply and whose MACs are not known.
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
    """Returns the multiply-accumulates (MACs) that one sample takes.

    Counted are all linear maps, once per use of a shared layer: dense, convolutional (grouped,
    strided, dilated, transposed, depthwise, separable), einsum, and attention with its scores and
    weighted sums. Biases, normalizations, activations, pooling and element-wise operations are not.
    A product with the zeros of a padded border counts like any other, as in TensorFlow's profiler.

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

    Example:
        >>> image = keras.Input((32, 32, 3))
        >>> outputs = keras.layers.Conv2D(8, 5, padding="same")(image)
        >>> keras_branch_prune.count_macs(keras.Model(image, outputs))
        614400

        That is 32 · 32 positions times a kernel of 5 · 5 · 3 · 8 weights.
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
        # A dict as an ordered set: a layer that is called twice is named once.
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
        unit.replace(config={"batch_shape": (None, *_fill_in(unit, value, shapes[unit.name]))})
        for unit, value in zip(graph.input_units, graph.input_values, strict=True)
    )
    # Built and read again, as Keras infers the shapes of all tensors on the way.
    return canonical(build_model(dataclasses.replace(graph, input_units=units)))


def _fill_in(unit: Unit, value: Value, shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of a sample, or raises unless it fits that of the input."""
    open_shape = value.shape[1:]
    fits = len(shape) == len(open_shape) and all(
        dim in (None, size) for dim, size in zip(open_shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`input_shape` must fit input '{unit.name}', {open_shape}. Received: {tuple(shape)}"
        )
    return tuple(require_integer("input_shape", size, at_least=1) for size in shape)
