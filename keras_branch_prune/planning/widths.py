"""The widths that a channel group may have."""

from __future__ import annotations

import bisect
import dataclasses
import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from keras_branch_prune.analysis import ChannelGroup
from keras_branch_prune.common import require_number

GivenLimits = Mapping[str, float] | float
"""One limit for all groups or one per group name: whole numbers are channels, others shares."""

ROUNDING = 1e-9
"""The relative error that is allowed for: in floating point, 0.07 · 100 is 7.000000000000001."""


@dataclasses.dataclass(frozen=True)
class WidthChoices:
    """The widths that one group may have.

    Args:
        name: Name of the group.
        channels: Number of its channels before pruning.
        widths: The widths to choose from, ascending.
    """

    name: str
    channels: int
    widths: tuple[int, ...]

    @property
    def lowest(self) -> int:
        """The smallest width."""
        return self.widths[0]

    @property
    def highest(self) -> int:
        """The largest width."""
        return self.widths[-1]

    def at_most(self, width: float) -> int:
        """Returns the largest choice up to `width`, or the smallest if there is none."""
        return self.widths[max(0, bisect.bisect_right(self.widths, width) - 1)]

    def nearest(self, width: float) -> int:
        """Returns the choice nearest to `width`; the smaller of two."""
        return min(self.widths, key=lambda choice: (abs(choice - width), choice))

    def wider(self, width: int) -> int | None:
        """Returns the next choice above `width`."""
        index = bisect.bisect_right(self.widths, width)
        return self.widths[index] if index < len(self.widths) else None

    def narrower(self, width: int, steps: int = 1) -> int | None:
        """Returns the choice some steps below `width`, or the smallest if there are fewer."""
        index = bisect.bisect_left(self.widths, width)
        return self.widths[max(0, index - steps)] if index else None


@dataclasses.dataclass(frozen=True)
class WidthLimits:
    """Which widths groups may be given.

    Args:
        round_to: Widths are multiples of it, or the full width; `None`: any. A group with fewer
            channels than that is not rounded.
        floors: Smallest widths, by group name.
        ceilings: Largest widths, by group name.
        unrounded: Names of the groups that `round_to` does not apply to.
    """

    round_to: int | None = None
    floors: Mapping[str, int] = dataclasses.field(default_factory=dict)
    ceilings: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unrounded: Collection[str] = ()

    def multiple(self, group: ChannelGroup) -> int:
        """Returns the number that all widths of a group but the full one are multiples of."""
        round_to = None if group.name in self.unrounded else self.round_to
        multiple = math.lcm(round_to or 1, group.conv_groups)
        return multiple if multiple <= group.channels else group.conv_groups

    def nearest(self, group: ChannelGroup, ratio: float) -> int:
        """Returns the width nearest to a ratio of the channels, floors and ceilings aside."""
        return round_width(group.channels * ratio, group.channels, self.multiple(group))

    def choices(self, groups: Sequence[ChannelGroup]) -> list[WidthChoices]:
        """Returns the choices of every group.

        Raises:
            ValueError: If a floor or ceiling is of a group that is not among `groups`, or they
                leave no width for one.
        """
        for argument in ("floors", "ceilings"):
            _check_names(argument, getattr(self, argument), groups)
        return [self._choices(group) for group in groups]

    def _choices(self, group: ChannelGroup) -> WidthChoices:
        multiple = self.multiple(group)
        floor = self.floors.get(group.name, 1)
        ceiling = self.ceilings.get(group.name, group.channels)
        widths = (*range(multiple, group.channels, multiple), group.channels)
        allowed = tuple(width for width in widths if floor <= width <= ceiling)
        if not allowed:
            raise ValueError(
                f"`floors` and `ceilings` must leave a width for group '{group.name}', which has "
                f"{group.channels} channels and multiples of {multiple}. Received: {floor} and "
                f"{ceiling}"
            )
        return WidthChoices(group.name, group.channels, allowed)


def round_width(width: float, channels: int, round_to: int = 1) -> int:
    """Returns a whole width between 1 and `channels`, a multiple of `round_to` or `channels`.

    Halves are rounded up to whole channels, and down to a multiple.
    """
    if round_to == 1:
        return min(channels, max(1, math.floor(width + 0.5)))
    multiple = max(1, math.ceil(width / round_to - 0.5)) * round_to
    return min(channels, multiple)


def width_limits(
    argument: str, limits: GivenLimits | None, groups: Sequence[ChannelGroup]
) -> dict[str, int]:
    """Returns limits of widths as numbers of channels by group.

    Args:
        argument: "floors" or "ceilings".
        limits: One limit for all groups or one by group: numbers of channels, or shares of them.
        groups: The selected groups.

    Raises:
        ValueError: If a limit is out of its range, or of a group that is not selected.
    """
    channels = {group.name: group.channels for group in groups}
    if limits is None:
        return {}
    if not isinstance(limits, Mapping):
        limits = dict.fromkeys(channels, limits)
    _check_names(argument, limits, groups)
    return {name: _to_channels(argument, limits[name], name, channels[name]) for name in limits}


def _check_names(argument: str, limits: Mapping[str, Any], groups: Sequence[ChannelGroup]) -> None:
    unknown = sorted(limits.keys() - {group.name for group in groups})
    if unknown:
        raise ValueError(f"`{argument}` must name selected groups. Received: {unknown}")


def _to_channels(argument: str, limit: Any, name: str, channels: int) -> int:
    whole = isinstance(limit, numbers.Integral)
    highest = channels if whole else 1
    expected = f"a share in (0, 1] of the {channels} channels, or a whole number of them"
    exact = require_number(f"{argument}[{name!r}]", limit, lambda x: 0 < x <= highest, expected)
    if whole:
        return int(exact)
    exact *= channels
    # A floor of 0.07 of 100 channels is 7, not 8.
    if argument == "floors":
        return math.ceil(exact * (1 - ROUNDING))
    return max(1, math.floor(exact * (1 + ROUNDING)))
