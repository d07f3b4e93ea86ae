"""The rules of layers that join tensors: merges and concatenations."""

from __future__ import annotations

import dataclasses

from keras import tree

from keras_branch_prune.channels import ChannelTracker, Layout, Layouts, side_by_side
from keras_branch_prune.graph import Call, Value
from keras_branch_prune.rules.base import Weightless, describe, keep_all_whole


@dataclasses.dataclass(frozen=True)
class Elementwise(Weightless):
    """A merge of several tensors channel by channel (add, multiply …): ties their groups."""

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Ties all inputs but those that broadcast a single channel."""
        pairs, where = list(zip(layouts, call.inputs, strict=True)), describe(call.unit)
        # Broadcasting aligns the last axes, so axes are counted from the end.
        axes = {layout.axis - len(value.shape) for layout, value in pairs if layout is not None}
        if not axes:
            return None
        ranks = {len(value.shape) for value in call.inputs}
        if len(axes) > 1 or (len(ranks) > 1 and axes != {-1}):
            keep_all_whole(layouts, tracker, f"{where} merges tensors of different ranks or axes")
            return None
        (axis,) = axes
        if _has_constant_channels(call, axis):
            keep_all_whole(layouts, tracker, f"{where} has a constant for every channel")
            return None
        channels = call.outputs[0].shape[axis]
        # A tensor of one channel is broadcast and fits any width.
        tied = [
            layout
            for layout, value in pairs
            if len(value.shape) >= -axis and value.shape[axis] == channels
        ]
        tracker.tie(tied, where)
        layout = next((layout for layout in tied if layout is not None), None)
        rank = len(call.outputs[0].shape)
        return layout and dataclasses.replace(layout, axis=rank + axis)


@dataclasses.dataclass(frozen=True)
class Concatenation(Weightless):
    """Puts groups side by side along the channel axis, or ties them along another axis."""

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Returns the layout of the concatenated tensor."""
        axes, where = {layout.axis for layout in layouts if layout is not None}, describe(call.unit)
        if not axes:
            return None
        if len(axes) > 1:
            keep_all_whole(layouts, tracker, f"{where} merges tensors of different channel axes")
            return None
        (axis,) = axes
        if call.unit.config["axis"] % len(call.outputs[0].shape) != axis:
            tracker.tie(layouts, where)
            return None if None in layouts else layouts[0]
        # Channels that are not tracked stay whole, but those beside them may go.
        parts = [
            layout or tracker.constant_source(axis, value.shape[axis])
            for layout, value in zip(layouts, call.inputs, strict=True)
        ]
        return side_by_side(axis, parts)


def _has_constant_channels(call: Call, axis: int) -> bool:
    """Whether the call has an array among its arguments with a value per channel."""
    leaves = tree.flatten((call.args, dict(call.kwargs)))
    shapes = [getattr(leaf, "shape", ()) for leaf in leaves if not isinstance(leaf, Value)]
    return any(len(shape) >= -axis and shape[axis] != 1 for shape in shapes)
