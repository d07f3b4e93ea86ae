"""Analytic costs of a model: parameters, and multiply-accumulates (MACs) per sample.

MACs are counted for every linear map: dense, convolutional (grouped, strided, dilated, transposed,
depthwise, separable), einsum and attention layers with heads, once per use of a shared layer.
Biases, normalizations, activations, pooling and element-wise operations are not counted. A product
with the zeros of a padded border counts like any other, as in TensorFlow's profiler.

What one layer costs is data: one entry per exact type in `_MACS`. A layer without an entry that
might multiply (it has a matrix among its weights, or multiplies tensors) is never guessed: it is
reported as uncounted.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import layers

from keras_branch_prune.graph import (
    Call,
    Graph,
    HeadAttention,
    HeadProjection,
    Unit,
    Value,
    build_model,
    canonical,
)
from keras_branch_prune.layers import ChannelMap

InputShape = Sequence[int] | Mapping[str, Sequence[int]]
"""Shape of a sample without the batch dimension, or one such shape per input name."""

_TENSOR_PRODUCTS = frozenset(
    {
        *("AdditiveAttention", "Attention", "Dot", "DotProductAttention"),
        *("Einsum", "Inner", "Matmul", "Outer", "Tensordot", "Vdot"),
        *("Conv", "ConvTranspose", "DepthwiseConv", "SeparableConv"),
    }
)
"""Names of layers and `keras.ops` operations that multiply tensors with each other."""


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
    return sum(map(_size, weights.values()))


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


def layer_macs(call: Call) -> int | None:
    """Returns the MACs per sample of one call, or `None` if they are not known.

    Raises:
        ValueError: If a dimension that matters is open.
    """
    if call.unit.cls in _MACS and not call.unit.config.get("lora_rank"):
        return _MACS[call.unit.cls](call)
    return None if _may_multiply(call.unit) else 0


def _may_multiply(unit: Unit) -> bool:
    has_matrix = any(len(weight.shape) >= 2 for weight in unit.weights)
    return has_matrix or unit.cls.__name__ in _TENSOR_PRODUCTS


def _positions(call: Call, value: Value, dims: Sequence[int | None]) -> int:
    """The number of positions in `dims`, which are dimensions of `value`."""
    if any(dim is None for dim in dims):
        raise ValueError(
            f"The MACs of layer '{call.unit.name}' depend on an open dimension. Received: a tensor "
            f"of shape {value.shape}; pass `input_shape=`, the shape of one sample without the "
            "batch dimension."
        )
    return math.prod(dim for dim in dims if dim is not None)


def _spatial(call: Call, value: Value) -> int:
    first = call.unit.config["data_format"] == "channels_first"
    return _positions(call, value, value.shape[2:] if first else value.shape[1:-1])


def _size(weight: Any) -> int:
    return math.prod(weight.shape)


def _none(call: Call) -> int:
    return 0


def _dense(call: Call) -> int:
    (output,) = call.outputs
    return _positions(call, output, output.shape[1:-1]) * _size(call.unit.weights[0])


def _convolution(call: Call) -> int:
    # A kernel is (*window, channels per group, filters): its size is the MACs of one position.
    return _spatial(call, call.outputs[0]) * _size(call.unit.weights[0])


def _transposed_convolution(call: Call) -> int:
    return _spatial(call, call.inputs[0]) * _size(call.unit.weights[0])


def _separable_convolution(call: Call) -> int:
    return _spatial(call, call.outputs[0]) * sum(map(_size, call.unit.weights[:2]))


def _einsum_dense(call: Call) -> int:
    operands, output_axes = call.unit.config["equation"].replace("...", "").split("->")
    kernel_axes = operands.split(",")[1]
    kernel, (output,) = call.unit.weights[0], call.outputs
    summed = [
        size
        for axis, size in zip(kernel_axes, kernel.shape, strict=True)
        if axis not in output_axes
    ]
    return _positions(call, output, output.shape[1:]) * math.prod(summed)


def _attention(call: Call) -> int | None:
    kernels = [weight for weight in call.unit.weights if len(weight.shape) == 3]
    named = dict(zip(("query", "value", "key"), call.args, strict=False), **call.kwargs)
    query, value = named["query"], named["value"]
    key = named.get("key") or value
    if len(kernels) != 4 or any(len(x.shape) != 3 for x in (query, value, key)):
        return None
    lengths = [_positions(call, x, x.shape[1:2]) for x in (query, key, value, query)]
    projections = sum(n * _size(kernel) for n, kernel in zip(lengths, kernels, strict=True))
    # Heads of queries, of which several may share one of keys and values.
    heads, sizes = kernels[0].shape[1], kernels[1].shape[2] + kernels[2].shape[2]
    return projections + lengths[0] * lengths[1] * heads * sizes


def _head_attention(call: Call) -> int:
    _, query, key = call.args
    pairs = _positions(call, query, query.shape[1:2]) * _positions(call, key, key.shape[1:2])
    sizes = call.unit.config["key_dim"] + call.unit.config["value_dim"]
    return pairs * int(call.unit.config["num_heads"]) * sizes


def _channel_map(call: Call) -> int:
    (output,) = call.outputs
    axis = call.unit.config["axis"] % len(output.shape)
    others = [dim for index, dim in enumerate(output.shape) if index not in (0, axis)]
    per_position = sum(math.prod(block) for block in call.unit.config["blocks"])
    return _positions(call, output, others) * per_position


_MACS: dict[type, Callable[[Call], int | None]] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.Conv1D: _convolution,
    layers.Conv2D: _convolution,
    layers.Conv3D: _convolution,
    layers.DepthwiseConv1D: _convolution,
    layers.DepthwiseConv2D: _convolution,
    layers.SeparableConv1D: _separable_convolution,
    layers.SeparableConv2D: _separable_convolution,
    layers.Conv1DTranspose: _transposed_convolution,
    layers.Conv2DTranspose: _transposed_convolution,
    layers.Conv3DTranspose: _transposed_convolution,
    layers.MultiHeadAttention: _attention,
    layers.GroupQueryAttention: _attention,
    HeadProjection: _dense,
    HeadAttention: _head_attention,
    ChannelMap: _channel_map,
    # A matrix among the weights, but nothing that is counted.
    layers.Embedding: _none,
    layers.PReLU: _none,
    layers.LayerNormalization: _none,
    layers.BatchNormalization: _none,
    layers.Normalization: _none,
}


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
    if not fits or any(isinstance(size, bool) or size < 1 for size in shape):
        raise ValueError(
            f"`input_shape` must fit input '{unit.name}', {open_shape}. Received: {tuple(shape)}"
        )
    return tuple(shape)
