"""The inference form: BatchNormalization folded, layers that only act in training removed."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from keras_branch_prune.attention import fuse_attention
from keras_branch_prune.canonical import canonical
from keras_branch_prune.graph import (
    Call,
    Graph,
    Unit,
    Value,
    build_model,
    replace_units,
    substitute,
)

_TRAINING_ONLY = frozenset(
    {
        layers.Dropout,
        layers.SpatialDropout1D,
        layers.SpatialDropout2D,
        layers.SpatialDropout3D,
        layers.AlphaDropout,
        layers.GaussianDropout,
        layers.GaussianNoise,
        layers.ActivityRegularization,
    }
)
"""Layers that return their input at inference."""


def inference_form(model: keras.Model) -> keras.Model:
    """Returns a model that predicts the same with fewer operations; the input model is untouched.

    BatchNormalization is folded into the Dense, convolution, transposed, depthwise or separable
    convolution before it, which gets a bias: in float64, rounded once. This needs a linear
    layer whose only reader is the BatchNormalization, on the same channel axis and in the same
    dtype; layers that are used several times keep theirs. The Dropout family, Gaussian noise and
    ActivityRegularization are removed, unless they are called with `training=True`. Input and
    output names stay. The result is for inference: training it is not equal to training `model`.

    Example:
        >>> import keras
        >>> inputs = keras.Input((8, 8, 3))
        >>> x = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
        >>> x = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(x))
        >>> [layer.name for layer in inference_form(keras.Model(inputs, x)).layers[1:]]
        ['conv2d', 'dropout']

    Args:
        model: A built functional or Sequential model, nested models allowed.

    Returns:
        A flat functional model of stock layers where `model` has them.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, has no functional graph, or contains a quantized layer.
    """
    graph = fuse_attention(canonical(model))
    return build_model(fold_batch_normalization(remove_training_only(graph)))


def remove_training_only(graph: Graph) -> Graph:
    """Returns the graph without layers that do nothing at inference.

    One that makes a model output becomes an `Identity` layer, so that the output keeps its name.
    """
    heads = set(graph.output_values)
    idle = [call for call in graph.calls if _does_nothing(call)]
    kept = {call.unit: _identity(call.unit) for call in idle if call.outputs[0] in heads}
    source = {c.outputs[0]: c.inputs[0] for c in idle if c.outputs[0] not in heads}
    return replace_units(substitute(graph, source), kept)


def fold_batch_normalization(graph: Graph) -> Graph:
    """Returns the graph with every BatchNormalization that allows it folded into its producer."""
    producer, readers = graph.producer(), graph.consumers()
    heads = set(graph.output_values)
    uses = collections.Counter(call.unit for call in graph.calls)
    folded: dict[Call, Call] = {}
    dropped: set[Call] = set()
    for call in graph.calls:
        before = producer.get(call.inputs[0]) if call.inputs else None
        if before is None or not _matches(before, call):
            continue
        (value,) = before.outputs
        used_once = uses[before.unit] == uses[call.unit] == 1
        if used_once and readers[value] == [call] and value not in heads:
            folded[before] = _fold(before, call, call.outputs[0] in heads)
            dropped.add(call)
    calls = tuple(folded.get(call, call) for call in graph.calls if call not in dropped)
    return dataclasses.replace(graph, calls=calls)


def _does_nothing(call: Call) -> bool:
    return (
        call.unit.cls in _TRAINING_ONLY
        and not call.kwargs.get("training")
        and call.inputs[0].dtype == call.outputs[0].dtype
    )


def _identity(unit: Unit) -> Unit:
    config = {"name": unit.name, "dtype": unit.config["dtype"]}
    return Unit(unit.name, layers.Identity, config)


@dataclasses.dataclass(frozen=True)
class _FoldSpec:
    """Where a linear layer keeps the kernel that makes its output channels.

    Args:
        scale: Takes the kernel's shape and the channels' scales; returns them in a shape that
            broadcasts with the kernel.
        kernel: Index of that kernel in the weights.
        data_format: Whether the channel axis is given by `data_format`; else it is the last axis.
    """

    scale: Callable[[tuple[int, ...], np.ndarray], np.ndarray]
    kernel: int = 0
    data_format: bool = True


def _last(shape: tuple[int, ...], scale: np.ndarray) -> np.ndarray:
    return scale


def _before_last(shape: tuple[int, ...], scale: np.ndarray) -> np.ndarray:
    return scale[:, None]


def _last_two(shape: tuple[int, ...], scale: np.ndarray) -> np.ndarray:
    return scale.reshape(shape[-2:])


_FOLD_SPECS: dict[type, _FoldSpec] = {
    layers.Dense: _FoldSpec(_last, data_format=False),
    layers.Conv1D: _FoldSpec(_last),
    layers.Conv2D: _FoldSpec(_last),
    layers.Conv3D: _FoldSpec(_last),
    layers.Conv1DTranspose: _FoldSpec(_before_last),
    layers.Conv2DTranspose: _FoldSpec(_before_last),
    layers.Conv3DTranspose: _FoldSpec(_before_last),
    layers.DepthwiseConv1D: _FoldSpec(_last_two),
    layers.DepthwiseConv2D: _FoldSpec(_last_two),
    layers.SeparableConv1D: _FoldSpec(_last, kernel=1),
    layers.SeparableConv2D: _FoldSpec(_last, kernel=1),
}


def _matches(before: Call, call: Call) -> bool:
    """Whether `call` is a BatchNormalization whose map the linear layer of `before` can take in."""
    unit, norm, value = before.unit, call.unit, before.outputs[0]
    spec = _FOLD_SPECS.get(unit.cls)
    if spec is None or norm.cls is not layers.BatchNormalization or call.kwargs.get("training"):
        return False
    return (
        value.dtype == call.outputs[0].dtype
        and unit.config["activation"] == "linear"
        and len(unit.weights) == spec.kernel + 1 + bool(unit.config["use_bias"])
        and norm.config["axis"] % len(value.shape) == _channel_axis(unit, value, spec)
    )


def _channel_axis(unit: Unit, value: Value, spec: _FoldSpec) -> int:
    first = spec.data_format and unit.config["data_format"] == "channels_first"
    return 1 if first else len(value.shape) - 1


def _fold(before: Call, call: Call, is_output: bool) -> Call:
    """Returns the call of both; an output keeps the name of the BatchNormalization."""
    scale, shift = _scale_and_shift(call.unit)
    unit, spec = before.unit, _FOLD_SPECS[before.unit.cls]
    arrays = unit.arrays()
    dtype, kernel = arrays[0].dtype, arrays[spec.kernel].astype(np.float64)
    bias = arrays[-1].astype(np.float64) if unit.config["use_bias"] else 0.0
    weights = [
        *arrays[: spec.kernel],
        (kernel * spec.scale(kernel.shape, scale)).astype(dtype),
        (bias * scale + shift).astype(dtype),
    ]
    name = call.unit.name if is_output else unit.name
    folded = unit.replace(name=name, config={"use_bias": True}, weights=tuple(weights))
    return dataclasses.replace(before, unit=folded, outputs=call.outputs)


def _scale_and_shift(unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    """Returns a, b (float64) with `BatchNormalization(x) = a·x + b` at inference."""
    arrays = [array.astype(np.float64) for array in unit.arrays()]
    variance, mean = arrays.pop(), arrays.pop()
    beta = arrays.pop() if unit.config["center"] else 0.0
    gamma = arrays.pop() if unit.config["scale"] else 1.0
    scale = gamma / np.sqrt(variance + unit.config["epsilon"])
    return scale, beta - mean * scale
