"""The kinds of rules: what a layer can do to channels.

A rule answers two questions about a layer. `trace`: which channel groups come out, given those that
go in? `narrow`: what does the layer look like when some channels are gone?
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from keras_branch_prune.graph import Call, Unit, Value
from keras_branch_prune.layouts import Block, Kept, Layout, side_by_side
from keras_branch_prune.linear import LinearSpec, has_plain_weights

Layouts = Sequence[Layout | None]
"""One layout per input tensor; `None` where the channels are not tracked, and thus fixed."""


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

    def fix(self, layout: Layout | None, reason: str) -> None:
        """Keeps all groups of `layout` at their width."""

    def consume(self, value: Value, unit: Unit) -> None:
        """Notes that `unit` is a linear consumer of `value`."""


class Rule(Protocol):
    """What one kind of layer does to channels."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Returns the layout of the call's output."""

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit for inputs narrowed to `kept`; `layout` is that of the first input."""


def _fix_all(layouts: Layouts, tracker: Tracker, reason: str) -> None:
    for layout in layouts:
        tracker.fix(layout, reason)


def _described(unit: Unit) -> str:
    return f"'{unit.name}' ({unit.cls.__name__})"


@dataclasses.dataclass(frozen=True)
class Barrier:
    """A layer whose channels cannot be followed: what goes in keeps its width."""

    reason: str = "has no rule"

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> None:
        """Fixes all inputs."""
        _fix_all(layouts, tracker, f"{_described(call.unit)} {self.reason}")

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Never called: the inputs of a barrier are never narrowed."""
        raise AssertionError(f"{_described(unit)} is a barrier and cannot be narrowed")


@dataclasses.dataclass(frozen=True)
class LinearMap:
    """A layer that mixes channels linearly: consumer of one group, producer of another.

    Args:
        spec: Where the layer keeps its channels.
        spatial: Whether the channel axis is given by `data_format`; else it is the last axis.
    """

    spec: LinearSpec
    spatial: bool = True

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Ends the input's groups at this consumer and begins the producer's."""
        unit = call.unit
        (layout,) = layouts
        (output,) = call.outputs
        reason = self._barrier_reason(unit)
        if reason:
            tracker.fix(layout, f"{_described(unit)} {reason}")
            return None
        axis = channel_axis(unit, output) if self.spatial else len(output.shape) - 1
        if layout is not None and layout.axis != axis:
            tracker.fix(layout, f"{_described(unit)} reads another axis than the channels")
            layout = None
        tracker.tie_calls(unit, "input", layout)
        tracker.consume(call.inputs[0], unit)
        return tracker.produce(unit, axis, unit.config[self.spec.width_key])

    @staticmethod
    def _barrier_reason(unit: Unit) -> str | None:
        if unit.config.get("groups", 1) != 1:
            return "is a grouped convolution, which has no rule yet"
        if not has_plain_weights(unit):
            return "has more weights than a kernel and a bias"
        return None

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Never called: a linear map is narrowed by multiplication, see `linear.multiply`."""
        raise AssertionError(f"{_described(unit)} is a linear map and is not part of a region")


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
            _fix_all(layouts, tracker, f"{_described(call.unit)} {self.otherwise}")
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
        weights = [w if w.shape[axis] == 1 else w.take(indices, axis) for w in unit.arrays()]
        return unit.replace(weights=tuple(weights))


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """A merge of several tensors channel by channel (add, multiply …): ties their groups."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Ties all inputs but those that broadcast a single channel."""
        known = [layout for layout in layouts if layout is not None]
        if not known:
            return None
        where = _described(call.unit)
        axes = {layout.axis for layout in known}
        ranks = {len(value.shape) for value in call.inputs}
        if len(axes) > 1 or len(ranks) > 1:
            _fix_all(layouts, tracker, f"{where} merges tensors of different ranks or axes")
            return None
        (axis,) = axes
        channels = call.outputs[0].shape[axis]
        tied = [
            layout
            for layout, value in zip(layouts, call.inputs, strict=True)
            if value.shape[axis] == channels
        ]
        tracker.tie(tied, where)
        return next((layout for layout in tied if layout is not None), None)

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit itself: it has no weights."""
        return unit


@dataclasses.dataclass(frozen=True)
class Concatenation:
    """Lays groups side by side along the channel axis, or ties them along another one."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Returns the layout of the concatenated tensor."""
        known = [layout for layout in layouts if layout is not None]
        if not known:
            return None
        where = _described(call.unit)
        axes = {layout.axis for layout in known}
        if len(axes) > 1:
            _fix_all(layouts, tracker, f"{where} merges tensors of different channel axes")
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

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit itself: it has no weights."""
        return unit


@dataclasses.dataclass(frozen=True)
class Flattening:
    """Flatten: the channels repeat for every position. Keras brings them last before flattening."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Returns the layout with the positions counted in."""
        (layout,) = layouts
        (value,) = call.inputs
        if layout is None or len(value.shape) == 2:
            return layout
        if layout.axis != channel_axis(call.unit, value):
            tracker.fix(layout, f"{_described(call.unit)} has another data_format than its input")
            return None
        sizes = [size for axis, size in enumerate(value.shape) if axis not in (0, layout.axis)]
        spatial = [size for size in sizes if size is not None]
        if len(spatial) < len(sizes) or len(layout.blocks) != 1 or layout.blocks[0].positions != 1:
            tracker.fix(layout, f"{_described(call.unit)} needs a static shape to be followed")
            return None
        block = Block(math.prod(spatial), layout.blocks[0].segments)
        return Layout(1, (block,))

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit itself: it has no weights."""
        return unit


def channel_axis(unit: Unit, value: Value) -> int:
    """Returns the channel axis that a layer's `data_format` means for a tensor."""
    first = unit.config.get("data_format") == "channels_first"
    return 1 if first else len(value.shape) - 1
