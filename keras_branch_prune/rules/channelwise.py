"""The rules of layers that treat every channel for itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from keras_branch_prune.channels import (
    ChannelMatrices,
    Kept,
    Layout,
    Layouts,
    expand_bias,
    expand_kernel,
    reduce_bias,
    reduce_kernel,
)
from keras_branch_prune.graph import Call, Unit, Value
from keras_branch_prune.rules.base import (
    Folding,
    Tracker,
    channel_axis,
    described,
    fix_all,
    positions,
)


def _any_axis(unit: Unit, value: Value, layout: Layout) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class Channelwise:
    """A layer with one input that treats every channel alone and keeps their order.

    Args:
        applies: Whether a call is channelwise, given the unit, its input and the input's layout.
        weight_axis: Maps the channel axis of the input to that of the weights; a weight of size 1
            along it is shared by all channels.
        drops_positions: Whether all axes but batch and channels may go (global pooling).
        otherwise: The barrier's reason where `applies` says no.
    """

    applies: Callable[[Unit, Value, Layout], bool] = _any_axis
    weight_axis: Callable[[int], int] = lambda axis: 0
    drops_positions: bool = False
    otherwise: str = "works along another axis than the channels"

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Hands the input's layout on."""
        layout, *others = layouts
        if layout is None:
            return None
        if others or not self.applies(call.unit, call.inputs[0], layout):
            reason = "is given a mask or another tensor" if others else self.otherwise
            fix_all(layouts, tracker, f"{described(call.unit)} {reason}")
            return None
        if call.unit.weights:
            tracker.tie_calls(call.unit, "input", layout)
        dropped = self.drops_positions and not call.unit.config["keepdims"]
        return dataclasses.replace(layout, axis=1) if dropped else layout

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Takes the kept channels of every weight that has one entry per channel."""
        if not unit.weights:
            return unit
        axis, indices = self.weight_axis(layout.axis), layout.kept(kept)
        weights = [_taken(weight, indices, axis) for weight in unit.arrays()]
        return unit.replace(weights=tuple(weights))

    def macs(self, call: Call) -> int:
        """Elementwise products are not counted."""
        return 0


def _taken(array: np.ndarray, indices: np.ndarray, axis: int = 0) -> np.ndarray:
    """Returns entries along an axis; a scalar, or what has size 1 there, is for all channels."""
    shared = array.ndim == 0 or array.shape[axis] == 1
    return array if shared else array.take(indices, axis)


@dataclasses.dataclass(frozen=True)
class GivenStatistics(Channelwise):
    """`Normalization`, whose mean and variance may stand in the config instead of the weights."""

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Takes the statistics of the kept channels, wherever they stand."""
        indices, config = layout.kept(kept), {}
        for key in ("mean", "variance"):
            given = unit.config[key]
            config[key] = None if given is None else _taken(np.asarray(given), indices).tolist()
        return super().narrow(unit, layout, kept).replace(config=config)


@dataclasses.dataclass(frozen=True)
class Depthwise(Folding):
    """A depthwise convolution: every channel becomes `depth_multiplier` channels of its own."""

    activation_key = "activation"

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Returns the layout with every channel repeated."""
        (layout,) = layouts
        if layout is None:
            return None
        if layout.axis != channel_axis(call.unit, call.inputs[0]):
            tracker.fix(layout, f"{described(call.unit)} works along another axis")
            return None
        tracker.tie_calls(call.unit, "input", layout)
        return layout.repeated(self.multiplier(call.unit))

    def multiplier(self, unit: Unit) -> int:
        """Returns the number of output channels per input channel."""
        return int(unit.config["depth_multiplier"])

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Takes the kernels and biases of the kept channels."""
        kernel, *biases = unit.arrays()
        outputs = layout.repeated(self.multiplier(unit)).kept(kept)
        narrow = [kernel.take(layout.kept(kept), -2), *(bias.take(outputs) for bias in biases)]
        return unit.replace(weights=tuple(narrow))

    def macs(self, call: Call) -> int:
        """Returns the size of the kernel times the positions of the output."""
        (output,), kernel = call.outputs, call.unit.weights[0]
        axis = channel_axis(call.unit, output)
        return positions(call, output, axis) * math.prod(kernel.shape)

    def multiply(
        self, unit: Unit, expands: Mapping[str, ChannelMatrices], reduce: ChannelMatrices | None
    ) -> Unit:
        """Returns `reduce ∘ unit ∘ expand` for diagonal maps, after which it is still depthwise."""
        kernel, bias = (array.astype(np.float64) for array in unit.arrays())
        # Every output channel is made of one input channel: both are the last axis.
        flat, expand = kernel.reshape(*kernel.shape[:-2], -1), expands.get("input")
        expand = expand and expand.repeated(self.multiplier(unit))
        bias = reduce_bias(expand_bias(bias, flat, (-1, -1), expand), reduce)
        flat = reduce_kernel(expand_kernel(flat, -1, expand), -1, reduce)
        dtype = unit.arrays()[0].dtype
        return unit.replace(weights=(flat.reshape(kernel.shape).astype(dtype), bias.astype(dtype)))


@dataclasses.dataclass(frozen=True)
class GroupedDepthwise(Depthwise):
    """A grouped convolution with one input channel per group, which is a depthwise one."""

    def multiplier(self, unit: Unit) -> int:
        """Returns the number of output channels per group."""
        return int(unit.config["filters"] // unit.config["groups"])

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Takes the kernels and biases of the kept channels, which are along the last axis."""
        outputs = layout.repeated(self.multiplier(unit)).kept(kept)
        config = {"groups": len(layout.kept(kept)), "filters": len(outputs)}
        weights = tuple(array.take(outputs, axis=-1) for array in unit.arrays())
        return unit.replace(config=config, weights=weights)


@dataclasses.dataclass(frozen=True)
class GroupNorm:
    """Normalization over groups of channels: every group keeps the same number of channels."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Partitions the channels into the groups, unless every channel is one."""
        (layout,), (value,) = layouts, call.inputs
        if layout is None:
            return None
        segment = layout.single_segment()
        if segment is None or layout.axis != call.unit.config["axis"] % len(value.shape):
            tracker.fix(layout, f"{described(call.unit)} does not normalize one group of channels")
            return None
        tracker.tie_calls(call.unit, "input", layout)
        if not self._is_per_channel(call.unit, segment.channels):
            tracker.partition(layout, call.unit.config["groups"])
        return layout

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Takes the kept channels of scale and center."""
        indices = layout.kept(kept)
        weights = tuple(weight.take(indices) for weight in unit.arrays())
        (segment,) = layout.segments()
        per_channel = self._is_per_channel(unit, segment.channels)
        config = {"groups": len(indices)} if per_channel else {}
        return unit.replace(config=config, weights=weights)

    @staticmethod
    def _is_per_channel(unit: Unit, channels: int) -> bool:
        return unit.config["groups"] in (-1, channels)
