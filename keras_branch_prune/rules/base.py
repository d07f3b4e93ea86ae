"""The kinds of rules: what a layer can do to channels.

A rule answers two questions about a layer. `trace`: which channel groups come out, given those that
go in? `narrow`: what does the layer look like when some channels are gone?
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from keras import tree

from keras_branch_prune.channels.cuts import side_by_side
from keras_branch_prune.channels.layouts import Kept, Layout, Layouts
from keras_branch_prune.graph.graph import Call, Unit, Value

Traced = Layout | Sequence[Layout | None] | None
"""The layout of the first output, or of every output."""


class Tracker(Protocol):
    """What a rule may tell the analysis (see `groups.py`)."""

    def produce(self, unit: Unit, axis: int, channels: int) -> Layout:
        """Returns the layout of the channel group that `unit` produces."""

    def fixed(self, axis: int, channels: int | None) -> Layout:
        """Returns the layout of channels that cannot be pruned."""

    def tie(self, layouts: Layouts, where: str) -> None:
        """Gives all layouts the same widths; if that is impossible, fixes them."""

    def tie_calls(self, unit: Unit, role: str, layout: Layout | None) -> None:
        """Ties `layout` to those of the unit's other calls, which share its weights."""

    def cut(self, layout: Layout, start: int, stop: int, where: str) -> Layout | None:
        """Returns the layout of a run of the channels, which is pruned for itself."""

    def unfold(self, layout: Layout, positions: int, where: str) -> Layout | None:
        """Returns the layout of the channels at one of the positions that an axis consists of."""

    def fix(self, layout: Layout | None, reason: str) -> None:
        """Keeps all groups of `layout` at their width."""

    def consume(self, value: Value, unit: Unit, role: str, groups: int = 1) -> None:
        """Notes that `unit` reads `value` linearly, by the kernel of that role, in groups."""

    def partition(self, layout: Layout, parts: int) -> None:
        """Makes every one of `parts` equal runs of channels keep the same number of them."""


class Rule(Protocol):
    """What one kind of layer does to channels."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Traced:
        """Returns the layout of the call's output."""

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit for inputs narrowed to `kept`; `layout` is that of the first input."""


def fix_all(layouts: Layouts, tracker: Tracker, reason: str) -> None:
    """Keeps the groups of all layouts at their width."""
    for layout in layouts:
        tracker.fix(layout, reason)


def described(unit: Unit) -> str:
    """Returns name and class of a layer, for messages."""
    return f"'{unit.name}' ({unit.cls.__name__})"


@dataclasses.dataclass(frozen=True)
class Barrier:
    """A layer whose channels cannot be followed: what goes in keeps its width."""

    reason: str = "has no rule"

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> None:
        """Fixes all inputs."""
        fix_all(layouts, tracker, f"{described(call.unit)} {self.reason}")

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Never called: the inputs of a barrier are never narrowed."""
        raise AssertionError(f"{described(unit)} is a barrier and cannot be narrowed")


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


class Weightless:
    """What rules of layers without weights or sizes share: the narrow layer is the layer itself."""

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit itself."""
        return unit


@dataclasses.dataclass(frozen=True)
class Elementwise(Weightless):
    """A merge of several tensors channel by channel (add, multiply …): ties their groups."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Ties all inputs but those that broadcast a single channel."""
        known = [layout for layout in layouts if layout is not None]
        if not known:
            return None
        where = described(call.unit)
        # Broadcasting aligns the last axes, so axes are compared as counted from there.
        axes = {
            layout.axis - len(value.shape)
            for layout, value in zip(layouts, call.inputs, strict=True)
            if layout is not None
        }
        ranks = {len(value.shape) for value in call.inputs}
        if len(axes) > 1 or (len(ranks) > 1 and axes != {-1}):
            fix_all(layouts, tracker, f"{where} merges tensors of different ranks or axes")
            return None
        (axis,) = axes
        if _has_constant_channels(call, axis):
            fix_all(layouts, tracker, f"{where} has a constant for every channel")
            return None
        channels = call.outputs[0].shape[axis]
        tied = [
            layout
            for layout, value in zip(layouts, call.inputs, strict=True)
            if len(value.shape) >= -axis and value.shape[axis] == channels
        ]
        tracker.tie(tied, where)
        layout = next((layout for layout in tied if layout is not None), None)
        rank = len(call.outputs[0].shape)
        return layout and dataclasses.replace(layout, axis=rank + axis)


@dataclasses.dataclass(frozen=True)
class Concatenation(Weightless):
    """Lays groups side by side along the channel axis, or ties them along another one."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Returns the layout of the concatenated tensor."""
        known = [layout for layout in layouts if layout is not None]
        if not known:
            return None
        where = described(call.unit)
        axes = {layout.axis for layout in known}
        if len(axes) > 1:
            fix_all(layouts, tracker, f"{where} merges tensors of different channel axes")
            return None
        (axis,) = axes
        if call.unit.config["axis"] % len(call.outputs[0].shape) != axis:
            tracker.tie(layouts, where)
            return known[0] if len(known) == len(layouts) else None
        parts = [
            layout or tracker.fixed(axis, value.shape[axis])
            for layout, value in zip(layouts, call.inputs, strict=True)
        ]
        return side_by_side(axis, parts)


@dataclasses.dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution: every channel becomes `depth_multiplier` channels of its own."""

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


def _has_constant_channels(call: Call, axis: int) -> bool:
    """Whether the call has an array among its arguments with a value per channel."""
    leaves = tree.flatten((call.args, dict(call.kwargs)))
    shapes = [getattr(leaf, "shape", ()) for leaf in leaves if not isinstance(leaf, Value)]
    return any(len(shape) >= -axis and shape[axis] != 1 for shape in shapes)


def channel_axis(unit: Unit, value: Value) -> int:
    """Returns the channel axis that a layer's `data_format` means for a tensor."""
    first = unit.config.get("data_format") == "channels_first"
    return 1 if first else len(value.shape) - 1
