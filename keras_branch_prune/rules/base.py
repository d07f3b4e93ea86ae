"""The kinds of rules: what a layer can do to channels.

A rule answers two questions about a layer. `trace`: which channel groups come out, given those that
go in? `narrow`: what does the layer look like when some channels are gone?
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from keras_branch_prune.channels import Kept, Layout, Layouts
from keras_branch_prune.graph import Call, Unit, Value

Traced = Layout | Sequence[Layout | None] | None
"""The layout of the first output, or of every output."""


class Tracker(Protocol):
    """What a rule may tell the analysis (see `groups.py`)."""

    def produce(self, unit: Unit, axis: int, channels: int) -> Layout:
        """Returns the layout of the channel group that `unit` produces."""

    def constant_source(self, axis: int, channels: int | None) -> Layout:
        """Returns the layout of channels that cannot be pruned."""

    def tie(self, layouts: Layouts, where: str) -> None:
        """Gives all layouts the same widths; if that is impossible, fixes them."""

    def tie_calls(self, unit: Unit, role: str, layout: Layout | None) -> None:
        """Ties `layout` to those of the unit's other calls, which share its weights."""

    def cut(self, layout: Layout, start: int, stop: int, where: str) -> Layout | None:
        """Returns the layout of a run of the channels, which is pruned for itself."""

    def unfold(self, layout: Layout, positions: int, where: str) -> Layout | None:
        """Returns the layout of the channels at one of the positions that an axis consists of."""

    def keep_whole(self, layout: Layout | None, reason: str) -> None:
        """Keeps all groups of `layout` at their width."""

    def consume(self, value: Value, unit: Unit, role: str, conv_groups: int = 1) -> None:
        """Notes that `unit` reads `value` linearly, by the kernel of that role, in groups."""

    def partition(self, layout: Layout, conv_groups: int) -> None:
        """Makes every one of `conv_groups` equal runs of channels keep the same number of them."""


class Rule(Protocol):
    """What one kind of layer does to channels."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Traced:
        """Returns the layout of the call's output."""

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit for inputs narrowed to `kept`; `layout` is that of the first input."""


def keep_all_whole(layouts: Layouts, tracker: Tracker, reason: str) -> None:
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

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> None:
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
