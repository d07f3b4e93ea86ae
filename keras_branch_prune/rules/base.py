"""The kinds of rules: what a layer can do to channels.

A rule answers two questions about a layer. `trace`: which channel groups come out, given those that
go in? `narrow`: how is the layer called when some channels are gone?
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

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Returns the call of the narrow layer, such as `call.replace_unit(weights=…)`.

        Args:
            call: The call on the original tensors. These stay in it (`analysis/narrowing.py` puts
                the narrow ones in their place); other arguments may change, as those of slices do.
            layout: Layout of its first input of which channels go.
            kept: The channels that stay.
        """


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

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Never called: the inputs of a barrier are never narrowed."""
        raise AssertionError(f"{described(call.unit)} is a barrier and cannot be narrowed")


class Weightless:
    """What rules of layers without weights or sizes share: the narrow layer is the layer itself."""

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Returns the call itself."""
        return call


def channel_axis(unit: Unit, value: Value) -> int:
    """Returns the channel axis that a layer's `data_format` means for a tensor."""
    first = unit.config.get("data_format") == "channels_first"
    return 1 if first else len(value.shape) - 1
