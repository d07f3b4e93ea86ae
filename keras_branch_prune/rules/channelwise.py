"""The rules of layers that treat every channel for itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from keras_branch_prune.channels import Kept, Layout, Layouts
from keras_branch_prune.graph import Call, Unit, Value, has_fused_activation
from keras_branch_prune.rules.base import (
    Tracker,
    channel_axis,
    described,
    fix_all,
    positions,
    shifts_evenly,
    with_bias,
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
class Depthwise:
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

    def fold_input(
        self, call: Call, axis: int, scale: np.ndarray, shift: np.ndarray
    ) -> Unit | None:
        """Returns the unit that also maps its input; `None` if no such layer does that exactly."""
        # Every output channel is made of one input channel.
        scale, shift = (np.repeat(x, self.multiplier(call.unit)) for x in (scale, shift))
        unit = _with_bias(call, axis, len(scale))
        if unit is None or (shift.any() and not shifts_evenly(unit)):
            return None
        kernel, bias = _flat_weights(unit)
        constant = (kernel * shift).sum(axis=tuple(range(kernel.ndim - 1)))
        return _with_weights(unit, kernel * scale, bias + constant)

    def fold_output(
        self, call: Call, axis: int, scale: np.ndarray, shift: np.ndarray
    ) -> Unit | None:
        """Returns the unit that also maps its output; `None` if no such layer does that."""
        unit = _with_bias(call, axis, len(scale))
        if unit is None or has_fused_activation(unit):
            return None
        kernel, bias = _flat_weights(unit)
        return _with_weights(unit, kernel * scale, bias * scale + shift)


def _with_bias(call: Call, axis: int, width: int) -> Unit | None:
    same_axis = axis == channel_axis(call.unit, call.inputs[0])
    return with_bias(call.unit, width) if same_axis else None


def _flat_weights(unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel `(*window, output channels)` and bias of a depthwise layer, float64."""
    kernel, bias = (array.astype(np.float64) for array in unit.arrays())
    return kernel.reshape(*kernel.shape[:-2], -1), bias


def _with_weights(unit: Unit, kernel: np.ndarray, bias: np.ndarray) -> Unit:
    old = unit.arrays()[0]
    weights = (kernel.reshape(old.shape).astype(old.dtype), bias.astype(old.dtype))
    return unit.replace(weights=weights)


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
