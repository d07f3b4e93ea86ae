"""The rules of layers that compute each channel from that channel alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from keras_branch_prune.channels import (
    ChannelMatrices,
    ChannelTracker,
    Kept,
    Layout,
    Layouts,
    multiply_weights,
)
from keras_branch_prune.graph import Call, Unit, Value, as_array
from keras_branch_prune.rules.base import (
    Folding,
    channel_axis,
    describe,
    keep_all_whole,
    positions,
)


def _any_axis(unit: Unit, value: Value, layout: Layout) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class Channelwise:
    """A layer with one input that computes each channel from that channel alone, in their order.

    Args:
        applies: Whether a call is so, given the unit, its input and the input's layout.
        weight_axis: Maps the channel axis of the input to that of the weights; a weight of size 1
            along it is shared by all channels.
        drops_positions: Whether the output is `(batch, channels)` unless `keepdims` is set, as that
            of global pooling.
        otherwise: Why the channels stay where `applies` is false.
    """

    applies: Callable[[Unit, Value, Layout], bool] = _any_axis
    weight_axis: Callable[[int], int] = lambda axis: 0
    drops_positions: bool = False
    otherwise: str = "works along another axis than the channels"

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Returns the input's layout."""
        layout, *others = layouts
        if layout is None:
            return None
        if others or not self.applies(call.unit, call.inputs[0], layout):
            reason = "is given a mask or another tensor" if others else self.otherwise
            keep_all_whole(layouts, tracker, f"{describe(call.unit)} {reason}")
            return None
        # All calls share the weights, one entry per channel, so they must keep the same channels.
        if call.unit.weights:
            tracker.tie_calls(call.unit, "input", layout)
        dropped = self.drops_positions and not call.unit.config["keepdims"]
        return dataclasses.replace(layout, axis=1) if dropped else layout

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Takes the kept channels of every weight that has one entry per channel."""
        if not call.unit.weights:
            return call
        axis, indices = self.weight_axis(layout.axis), layout.kept_indices(kept)
        weights = [_take_channels(weight, indices, axis) for weight in call.unit.arrays()]
        return call.replace_unit(weights=tuple(weights))

    def macs(self, call: Call) -> int:
        """Returns 0: elementwise products are not counted."""
        return 0


def _take_channels(array: np.ndarray, indices: np.ndarray, axis: int = 0) -> np.ndarray:
    """Returns some channels of a weight; one of size 1 along the axis is shared by all."""
    shared = array.ndim == 0 or array.shape[axis] == 1
    return array if shared else array.take(indices, axis)


@dataclasses.dataclass(frozen=True)
class GivenStatistics(Channelwise):
    """`Normalization`, whose mean and variance may be in the config instead of the weights."""

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Takes the statistics of the kept channels, in the weights and in the config."""
        indices, config = layout.kept_indices(kept), {}
        for key in ("mean", "variance"):
            given = call.unit.config[key]
            config[key] = (
                None if given is None else _take_channels(np.asarray(given), indices).tolist()
            )
        return super().narrow(call, layout, kept).replace_unit(config=config)


@dataclasses.dataclass(frozen=True)
class Depthwise(Folding):
    """A depthwise convolution: each channel becomes `depth_multiplier` output channels."""

    activation_key = "activation"

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Returns the layout with every channel repeated `depth_multiplier` times."""
        (layout,) = layouts
        if layout is None:
            return None
        if layout.axis != channel_axis(call.unit, call.inputs[0]):
            tracker.keep_whole(layout, f"{describe(call.unit)} works along another axis")
            return None
        tracker.tie_calls(call.unit, "input", layout)
        return layout.repeat(self.multiplier(call.unit))

    def multiplier(self, unit: Unit) -> int:
        """Returns the number of output channels per input channel."""
        return int(unit.config["depth_multiplier"])

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Takes the kernels and biases of the kept channels."""
        kernel, *biases = call.unit.arrays()
        inputs = layout.kept_indices(kept)
        outputs = layout.repeat(self.multiplier(call.unit)).kept_indices(kept)
        narrow = [kernel.take(inputs, -2), *(bias.take(outputs) for bias in biases)]
        return call.replace_unit(weights=tuple(narrow))

    def macs(self, call: Call) -> int:
        """Returns the size of the kernel times the positions of the output."""
        (output,), kernel = call.outputs, call.unit.weights[0]
        axis = channel_axis(call.unit, output)
        return positions(call, output, axis) * math.prod(kernel.shape)

    def multiply(
        self, unit: Unit, expands: Mapping[str, ChannelMatrices], reduce: ChannelMatrices | None
    ) -> Unit:
        """Returns `reduce ∘ unit ∘ expand` for diagonal maps, after which it is still depthwise."""
        kernel, bias = unit.arrays()
        # (…, channels, multiplier) as (…, outputs): each output is made of one input channel, so
        # that both maps scale the same axis.
        flat, expand = kernel.reshape(*kernel.shape[:-2], -1), expands.get("input")
        expand = expand and expand.repeat(self.multiplier(unit))
        product, bias = map(as_array, multiply_weights((flat, bias), (-1, -1), expand, reduce))
        return unit.replace(weights=(product.reshape(kernel.shape), bias))


@dataclasses.dataclass(frozen=True)
class GroupedDepthwise(Depthwise):
    """A grouped convolution with one input channel per group, that is, a depthwise one."""

    def multiplier(self, unit: Unit) -> int:
        """Returns the number of output channels per group."""
        return int(unit.config["filters"] // unit.config["groups"])

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Takes the kernels and biases of the kept channels."""
        # The kernel is (…, 1, outputs): both weights have the outputs last, and no input axis.
        outputs = layout.repeat(self.multiplier(call.unit)).kept_indices(kept)
        config = {"groups": len(layout.kept_indices(kept)), "filters": len(outputs)}
        weights = tuple(array.take(outputs, axis=-1) for array in call.unit.arrays())
        return call.replace_unit(config=config, weights=weights)


@dataclasses.dataclass(frozen=True)
class GroupNorm:
    """`GroupNormalization`: each of its groups keeps the same number of channels."""

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Partitions the channels into its groups, unless each channel is a group."""
        (layout,), (value,) = layouts, call.inputs
        if layout is None:
            return None
        segment = layout.single_segment()
        if segment is None or layout.axis != call.unit.config["axis"] % len(value.shape):
            reason = f"{describe(call.unit)} does not normalize one group of channels"
            tracker.keep_whole(layout, reason)
            return None
        tracker.tie_calls(call.unit, "input", layout)
        if not self._is_per_channel(call.unit, segment.channels):
            tracker.partition(layout, call.unit.config["groups"])
        return layout

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Takes the kept channels of scale and center."""
        indices = layout.kept_indices(kept)
        weights = tuple(weight.take(indices) for weight in call.unit.arrays())
        (segment,) = layout.segments()
        per_channel = self._is_per_channel(call.unit, segment.channels)
        config = {"groups": len(indices)} if per_channel else {}
        return call.replace_unit(config=config, weights=weights)

    @staticmethod
    def _is_per_channel(unit: Unit, channels: int) -> bool:
        # -1 stands for instance normalization; Keras replaces it when the layer is built.
        return unit.config["groups"] in (-1, channels)
