"""The rules of layers that change the shape of a tensor: flatten, reshape, reduce, permute."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from keras_branch_prune.channels import Block, ChannelTracker, Kept, Layout, Layouts
from keras_branch_prune.graph import Call, Unit, Value
from keras_branch_prune.rules.base import Weightless, channel_axis, describe


@dataclasses.dataclass(frozen=True)
class Flattening(Weightless):
    """Flatten: an axis of all channels at the first position, then all at the second, and so on.

    So it is with `channels_first` too: Keras moves the channels last before it flattens.
    """

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Returns one block of as many positions as the input has."""
        (layout,) = layouts
        (value,), where = call.inputs, describe(call.unit)
        if layout is None or len(value.shape) == 2:
            return layout
        if layout.axis != channel_axis(call.unit, value):
            tracker.keep_whole(layout, f"{where} has another data_format than its input")
            return None
        if not _can_flatten(layout, value):
            tracker.keep_whole(layout, f"{where} needs a static shape to be followed")
            return None
        return _flatten(layout, value)


@dataclasses.dataclass(frozen=True)
class Reshaping:
    """A reshape that keeps the channels last, or moves positions into their axis or out of it.

    Args:
        key: Config key of the target shape.
    """

    key: str = "target_shape"

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Follows the channels if they stay last."""
        (layout, *_), value, output = layouts, call.inputs[0], call.outputs[0]
        if layout is None:
            return None
        if layout.axis == len(value.shape) - 1 and len(layouts) == 1:
            if output.shape[-1] == value.shape[-1]:
                return dataclasses.replace(layout, axis=len(output.shape) - 1)
            if len(output.shape) == 2 and _can_flatten(layout, value):
                return _flatten(layout, value)
            positions = _parted_positions(value.shape, output.shape)
            if positions is not None:
                found = tracker.unfold(layout, positions, describe(call.unit))
                return found and dataclasses.replace(found, axis=len(output.shape) - 1)
        tracker.keep_whole(layout, f"{describe(call.unit)} may move channels to another axis")
        return None

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Narrows the last size of the target shape."""
        # The last size may be that of one position, 32 of 512: it falls as the whole axis does.
        before = sum(block.positions * block.channels for block in layout.blocks)
        *target, last = call.unit.config[self.key]
        last = -1 if last == -1 else last * layout.width(kept) // before
        return call.replace_unit(config={self.key: (*target, last)})


@dataclasses.dataclass(frozen=True)
class Reduction(Weightless):
    """A mean, maximum … over the axes in `axis`, which stay with size 1 if `keepdims` is set."""

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Follows the channels unless they are reduced themselves."""
        (layout,), (value,) = layouts, call.inputs
        if layout is None:
            return None
        axis, rank = call.unit.config["axis"], len(value.shape)
        axes = range(rank) if axis is None else np.atleast_1d(axis) % rank
        if layout.axis in axes:
            tracker.keep_whole(layout, f"{describe(call.unit)} mixes the channels")
            return None
        before = 0 if call.unit.config["keepdims"] else sum(a < layout.axis for a in axes)
        return dataclasses.replace(layout, axis=layout.axis - int(before))


@dataclasses.dataclass(frozen=True)
class Squeezing(Weightless):
    """The removal of the axes in `axis`, or, if it is `None`, of all axes of size 1."""

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Counts the channel axis without the removed axes."""
        (layout,), (value,) = layouts, call.inputs
        if layout is None:
            return None
        axis = call.unit.config["axis"]
        gone = [a for a, size in enumerate(value.shape) if size == 1]
        gone = gone if axis is None else [a % len(value.shape) for a in np.atleast_1d(axis)]
        if layout.axis in gone:
            tracker.keep_whole(layout, f"{describe(call.unit)} removes the channel axis")
            return None
        return dataclasses.replace(layout, axis=layout.axis - sum(a < layout.axis for a in gone))


@dataclasses.dataclass(frozen=True)
class Expansion(Weightless):
    """The insertion of axes of size 1; `axis` counts them in the output."""

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Counts the channel axis with the new axes."""
        (layout,), rank = layouts, len(call.outputs[0].shape)
        if layout is None:
            return None
        new = {int(a) % rank for a in np.atleast_1d(call.unit.config["axis"])}
        old = [axis for axis in range(rank) if axis not in new]
        return dataclasses.replace(layout, axis=old[layout.axis])


@dataclasses.dataclass(frozen=True)
class Permutation(Weightless):
    """A permutation of the axes, the channel axis among them.

    Args:
        order: Returns for every output axis the input axis, given the unit and the rank.
    """

    order: Callable[[Unit, int], Sequence[int]]

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Returns the layout at its new axis."""
        (layout,), (value,) = layouts, call.inputs
        if layout is None:
            return None
        axes = list(self.order(call.unit, len(value.shape)))
        return dataclasses.replace(layout, axis=axes.index(layout.axis))


def _can_flatten(layout: Layout, value: Value) -> bool:
    static = None not in value.shape[1:]
    return static and len(layout.blocks) == 1 and layout.blocks[0].positions == 1


def _parted_positions(before: Sequence[int | None], after: Sequence[int | None]) -> int | None:
    """Returns the positions that a reshape moves out of the last axis, if it does nothing else.

    From `(batch, 512)` to `(batch, 4, 4, 32)` they are 16: the axis holds 32 channels for each.
    """
    *others, _ = before
    if len(after) <= len(before) or list(after[: len(others)]) != others:
        return None
    positions = after[len(others) : -1]
    return None if None in positions else math.prod(size or 0 for size in positions)


def _flatten(layout: Layout, value: Value) -> Layout:
    sizes = [size or 0 for axis, size in enumerate(value.shape) if axis not in (0, layout.axis)]
    return Layout(1, (Block(math.prod(sizes), layout.blocks[0].segments),))
