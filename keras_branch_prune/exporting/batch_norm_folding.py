"""BatchNormalization folded into the linear layers before or after it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_branch_prune.graph import (
    Call,
    Graph,
    Unit,
    Value,
    build_model,
    canonical,
    fuse_attention,
    replace_units,
    substitute,
)


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Returns a model that predicts the same with fewer BatchNormalization layers.

    At inference BatchNormalization is a map a·x + b per channel. It is taken in by its neighbours,
    in float64 and rounded once:

    * by the linear layer before it (Dense, convolution, transposed, depthwise or separable
      convolution, without activation), if nothing else reads that layer;
    * else by the linear layers after it, if all its readers are such and take in the map exactly. A
      Dense and a convolution without padding do. Zeros that a convolution with padding "same" or
      "causal" adds are not mapped, and a transposed convolution does not add up equally many
      values everywhere: those take in a map with b = 0 only, or any map if their kernel is a
      single pixel (and a transposed one has no strides).

    The linear layer needs the same channel axis and dtype. Layers that are used several times and
    BatchNormalization called with `training=True` stay; so do Dropout and all else. Separable
    convolutions come back as their two parts, and activations as layers of their own. Input and
    output names stay. The result is for inference: its statistics are constants.

    Example:
        >>> import keras
        >>> inputs = keras.Input((8, 8, 3))
        >>> x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
        >>> [layer.name for layer in fold_batch_norm(keras.Model(inputs, x)).layers[1:]]
        ['batch_normalization']
        >>> type(fold_batch_norm(keras.Model(inputs, x)).layers[1]).__name__
        'Conv2D'

    Args:
        model: A built functional or Sequential model, nested models allowed. It is not changed.

    Returns:
        A flat functional model with copies of the weights.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, has no functional graph, or contains a quantized layer.
    """
    return build_model(fold_batch_normalization(fuse_attention(canonical(model))))


def fold_batch_normalization(graph: Graph) -> Graph:
    """Returns the graph with every BatchNormalization that allows it folded."""
    return _fold_into_readers(_fold_into_producers(graph))


def _fold_into_producers(graph: Graph) -> Graph:
    producer, readers = graph.producer(), graph.consumers()
    heads, uses = set(graph.output_values), _uses(graph)
    folded: dict[Call, Call] = {}
    dropped: set[Call] = set()
    for call in graph.calls:
        before = producer.get(call.inputs[0]) if call.inputs else None
        if before is None or not _producer_matches(before, call):
            continue
        (value,) = before.outputs
        used_once = uses[before.unit] == uses[call.unit] == 1
        if used_once and readers[value] == [call] and value not in heads:
            folded[before] = _into_producer(before, call, call.outputs[0] in heads)
            dropped.add(call)
    calls = tuple(folded.get(call, call) for call in graph.calls if call not in dropped)
    return dataclasses.replace(graph, calls=calls)


def _fold_into_readers(graph: Graph) -> Graph:
    # One at a time: of several in a row the last goes first, and then the one before it can.
    while (call := _next_before_its_readers(graph)) is not None:
        units = {
            reader.unit: _into_reader(call, reader) for reader in graph.consumers()[call.outputs[0]]
        }
        graph = substitute(replace_units(graph, units), {call.outputs[0]: call.inputs[0]})
    return graph


def _next_before_its_readers(graph: Graph) -> Call | None:
    """Returns a call of a BatchNormalization that all its readers can take in, if there is one."""
    readers, uses = graph.consumers(), _uses(graph)
    heads = set(graph.output_values)
    for call in graph.calls:
        if not _is_fixed_norm(call) or uses[call.unit] != 1 or call.outputs[0] in heads:
            continue
        after = readers.get(call.outputs[0], [])
        if after and all(uses[x.unit] == 1 and _reader_matches(call, x) for x in after):
            return call
    return None


def _uses(graph: Graph) -> dict[Unit, int]:
    return collections.Counter(call.unit for call in graph.calls)


def _is_fixed_norm(call: Call) -> bool:
    return call.unit.cls is layers.BatchNormalization and not call.kwargs.get("training")


@dataclasses.dataclass(frozen=True)
class _FoldSpec:
    """How a linear layer with the weights kernel and perhaps bias takes in a map per channel.

    Args:
        outputs: Takes the kernel's shape and one number per output channel; returns the numbers in
            a shape that broadcasts with the kernel.
        inputs: The same for one number per input channel.
        sum_inputs: Takes a kernel of that shape; returns its sum over all that a value of an output
            channel is made of: one number per output channel.
        spatial: Whether the layer has a kernel over positions, and takes `data_format`; a Dense
            has the channels last.
        transposed: Whether it is a transposed convolution.
    """

    outputs: Callable[[tuple[int, ...], np.ndarray], np.ndarray]
    inputs: Callable[[tuple[int, ...], np.ndarray], np.ndarray]
    sum_inputs: Callable[[np.ndarray], np.ndarray]
    spatial: bool = True
    transposed: bool = False


def _last(shape: tuple[int, ...], numbers: np.ndarray) -> np.ndarray:
    return numbers


def _before_last(shape: tuple[int, ...], numbers: np.ndarray) -> np.ndarray:
    return numbers[:, None]


def _last_two(shape: tuple[int, ...], numbers: np.ndarray) -> np.ndarray:
    return numbers.reshape(shape[-2:])


def _before_last_by_group(shape: tuple[int, ...], numbers: np.ndarray) -> np.ndarray:
    """For kernels `(…, inputs / groups, outputs)`, whose outputs are ordered by group."""
    by_group = numbers.reshape(-1, shape[-2]).T
    return np.repeat(by_group, shape[-1] // by_group.shape[1], axis=1)


def _sum_but_last(kernel: np.ndarray) -> np.ndarray:
    return kernel.sum(axis=tuple(range(kernel.ndim - 1)))


def _sum_but_last_two(kernel: np.ndarray) -> np.ndarray:
    return kernel.sum(axis=tuple(range(kernel.ndim - 2))).reshape(-1)


def _sum_but_before_last(kernel: np.ndarray) -> np.ndarray:
    return _sum_but_last(np.swapaxes(kernel, -1, -2))


_DENSE = _FoldSpec(_last, _before_last, _sum_but_last, spatial=False)
_CONVOLUTION = _FoldSpec(_last, _before_last_by_group, _sum_but_last)
_DEPTHWISE = _FoldSpec(_last_two, _before_last, _sum_but_last_two)
_TRANSPOSED = _FoldSpec(_before_last, _last, _sum_but_before_last, transposed=True)

_FOLD_SPECS: dict[type, _FoldSpec] = {
    layers.Dense: _DENSE,
    layers.Conv1D: _CONVOLUTION,
    layers.Conv2D: _CONVOLUTION,
    layers.Conv3D: _CONVOLUTION,
    layers.Conv1DTranspose: _TRANSPOSED,
    layers.Conv2DTranspose: _TRANSPOSED,
    layers.Conv3DTranspose: _TRANSPOSED,
    layers.DepthwiseConv1D: _DEPTHWISE,
    layers.DepthwiseConv2D: _DEPTHWISE,
}


def _producer_matches(before: Call, norm: Call) -> bool:
    """Whether `norm` is a BatchNormalization whose map the layer of `before` can take in."""
    return (
        _is_fixed_norm(norm)
        and _is_linear(before)
        and before.unit.config["activation"] == "linear"
        and _agrees(norm, before.unit, before.outputs[0])
        and before.outputs[0].dtype == norm.outputs[0].dtype
    )


def _reader_matches(norm: Call, reader: Call) -> bool:
    """Whether the layer of `reader` can take in the map of a BatchNormalization exactly."""
    return (
        _is_linear(reader)
        and reader.inputs == norm.outputs
        and _agrees(norm, reader.unit, norm.outputs[0])
        and norm.inputs[0].dtype == norm.outputs[0].dtype == reader.outputs[0].dtype
        and (_maps_everywhere(reader.unit) or not _scale_and_shift(norm.unit)[1].any())
    )


def _is_linear(call: Call) -> bool:
    unit = call.unit
    return unit.cls in _FOLD_SPECS and len(unit.weights) == 1 + bool(unit.config["use_bias"])


def _agrees(norm: Call, unit: Unit, value: Value) -> bool:
    """Whether a BatchNormalization has the channel axis of a linear layer's input or output."""
    rank, spec = len(value.shape), _FOLD_SPECS[unit.cls]
    first = spec.spatial and unit.config["data_format"] == "channels_first"
    return norm.unit.config["axis"] % rank == (1 if first else rank - 1)


def _maps_everywhere(unit: Unit) -> bool:
    """Whether a constant added to a channel of the input adds one constant to all of an output."""
    config, spec = unit.config, _FOLD_SPECS[unit.cls]
    if not spec.spatial or (config["padding"] == "valid" and not spec.transposed):
        return True
    single = set(np.ravel(config["kernel_size"])) == {1}
    return single and (not spec.transposed or set(np.ravel(config["strides"])) == {1})


def _into_producer(before: Call, norm: Call, is_output: bool) -> Call:
    """Returns the call of both; an output keeps the name of the BatchNormalization."""
    scale, shift = _scale_and_shift(norm.unit)
    kernel, bias = _float64_weights(before.unit)
    factor = _FOLD_SPECS[before.unit.cls].outputs(kernel.shape, scale)
    unit = _with_weights(before.unit, kernel * factor, bias * scale + shift)
    name = norm.unit.name if is_output else unit.name
    return dataclasses.replace(before, unit=unit.replace(name=name), outputs=norm.outputs)


def _into_reader(norm: Call, reader: Call) -> Unit:
    """Returns the linear layer of `reader` that does both."""
    scale, shift = _scale_and_shift(norm.unit)
    kernel, bias = _float64_weights(reader.unit)
    spec = _FOLD_SPECS[reader.unit.cls]
    constant = spec.sum_inputs(kernel * spec.inputs(kernel.shape, shift))
    factor = spec.inputs(kernel.shape, scale)
    return _with_weights(reader.unit, kernel * factor, bias + constant)


def _float64_weights(unit: Unit) -> tuple[np.ndarray, Any]:
    kernel, *bias = (array.astype(np.float64) for array in unit.arrays())
    return kernel, bias[0] if bias else 0.0


def _with_weights(unit: Unit, kernel: np.ndarray, bias: np.ndarray) -> Unit:
    dtype = unit.arrays()[0].dtype
    weights = (kernel.astype(dtype), bias.astype(dtype))
    return unit.replace(config={"use_bias": True}, weights=weights)


def _scale_and_shift(unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    """Returns a, b (float64) with `BatchNormalization(x) = a·x + b` at inference."""
    arrays = [array.astype(np.float64) for array in unit.arrays()]
    variance, mean = arrays.pop(), arrays.pop()
    beta = arrays.pop() if unit.config["center"] else 0.0
    gamma = arrays.pop() if unit.config["scale"] else 1.0
    scale = gamma / np.sqrt(variance + unit.config["epsilon"])
    return scale, beta - mean * scale
