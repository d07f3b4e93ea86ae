"""The kinds of rules: what a layer can do to channels.

A rule answers two questions about a layer. `trace`: which channel groups come out, given those that
go in? `narrow`: what does the layer look like when some channels are gone?
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from keras_branch_prune.channels import ChannelTracker, Kept, Layout, Layouts
from keras_branch_prune.graph import Call, Unit, Value

Traced = Layout | Sequence[Layout | None] | None
"""The layout of the first output, or of every output."""


class Rule(Protocol):
    """What one kind of layer does to channels."""

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Traced:
        """Returns the layout of the call's output."""

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit for inputs narrowed to `kept`; `layout` is that of the first input."""


def keep_all_whole(layouts: Layouts, tracker: ChannelTracker, reason: str) -> None:
    """Keeps the groups of all layouts at their width."""
    for layout in layouts:
        tracker.keep_whole(layout, reason)


def described(unit: Unit) -> str:
    """Returns name and class of a layer, for messages."""
    return f"'{unit.name}' ({unit.cls.__name__})"


@dataclasses.dataclass(frozen=True)
class Barrier:
    """A layer whose channels cannot be followed: what goes in keeps its width."""

    reason: str = "has no rule"

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> None:
        """Keeps all inputs whole."""
        keep_all_whole(layouts, tracker, f"{described(call.unit)} {self.reason}")

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Never called: the inputs of a barrier are never narrowed."""
        raise AssertionError(f"{described(unit)} is a barrier and cannot be narrowed")


class Weightless:
    """What rules of layers without weights or sizes share: the narrow layer is the layer itself."""

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit itself."""
        return unit


def channel_axis(unit: Unit, value: Value) -> int:
    """Returns the channel axis that a layer's `data_format` means for a tensor."""
    first = unit.config.get("data_format") == "channels_first"
    return 1 if first else len(value.shape) - 1
