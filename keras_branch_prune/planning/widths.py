"""The widths that a channel group may have."""

from __future__ import annotations

import bisect
import dataclasses
import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from keras_branch_prune.analysis import ChannelGroup
from keras_branch_prune.common import number_or_nan

Widths = Mapping[str, float] | float
"""One limit for all groups or one per group name: whole numbers are channels, others shares."""

ROUNDING = 1e-9
"""What sums and products of floating-point numbers may be off, relative to them."""


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


def width_multiple(group: ChannelGroup, round_to: int | None) -> int:
    """Returns what the widths of a group are multiples of, but for its full width.

    A group that is too small for `round_to` is not rounded.
    """
    multiple = math.lcm(round_to or 1, group.conv_groups)
    return multiple if multiple <= group.channels else group.conv_groups


def width_choices(
    groups: Sequence[ChannelGroup],
    round_to: int | None = None,
    floors: Mapping[str, int] | None = None,
    ceilings: Mapping[str, int] | None = None,
    unrounded: Collection[str] = (),
) -> list[WidthChoices]:
    """Returns the choices of every group.

    Args:
        groups: Groups that can be pruned.
        round_to: Widths are multiples of it, or the full width.
        floors: Smallest widths, by group.
        ceilings: Largest widths, by group.
        unrounded: Names of the groups that `round_to` does not count for.

    Raises:
        ValueError: If `floors` or `ceilings` name a group that is not among `groups`, or leave no
            width for one.
    """
    floors, ceilings = floors or {}, ceilings or {}
    names = {group.name for group in groups}
    for argument, limits in (("floors", floors), ("ceilings", ceilings)):
        unknown = sorted(limits.keys() - names)
        if unknown:
            raise ValueError(f"`{argument}` must name selected groups. Received: {unknown}")
    return [
        _choices(
            group,
            width_multiple(group, None if group.name in unrounded else round_to),
            floors.get(group.name, 1),
            ceilings.get(group.name, group.channels),
        )
        for group in groups
    ]


def _choices(group: ChannelGroup, multiple: int, floor: int, ceiling: int) -> WidthChoices:
    widths = (*range(multiple, group.channels, multiple), group.channels)
    allowed = tuple(width for width in widths if floor <= width <= ceiling)
    if not allowed:
        raise ValueError(
            f"`floors` and `ceilings` must leave a width for group '{group.name}', which has "
            f"{group.channels} channels and multiples of {multiple}. Received: {floor} and "
            f"{ceiling}"
        )
    return WidthChoices(group.name, group.channels, allowed)


def nearest_width(group: ChannelGroup, ratio: float, round_to: int | None) -> int:
    """Returns the width nearest to a ratio that rounding and the group's `conv_groups` allow."""
    return round_width(group.channels * ratio, group.channels, width_multiple(group, round_to))


def round_width(width: float, channels: int, round_to: int = 1) -> int:
    """Returns a whole width between 1 and `channels`, a multiple of `round_to` or `channels`.

    Halves are rounded up to whole channels, and down to a multiple.
    """
    if round_to == 1:
        return min(channels, max(1, math.floor(width + 0.5)))
    multiple = max(1, math.ceil(width / round_to - 0.5)) * round_to
    return min(channels, multiple)


def width_limits(
    argument: str, limits: Widths | None, groups: Sequence[ChannelGroup]
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
    unknown = sorted(limits.keys() - channels.keys())
    if unknown:
        raise ValueError(f"`{argument}` must name selected groups. Received: {unknown}")
    return {name: _width_limit(argument, limits[name], name, channels[name]) for name in limits}


def _width_limit(argument: str, limit: Any, name: str, channels: int) -> int:
    whole = isinstance(limit, numbers.Integral)
    if not 0 < number_or_nan(limit) <= (channels if whole else 1):
        raise ValueError(
            f"`{argument}` must be shares in (0, 1], or whole numbers of channels up to those "
            f"of the group. Received: {limit!r} for group '{name}', of {channels} channels"
        )
    if whole:
        return int(limit)
    exact = limit * channels
    if argument == "floors":
        return math.ceil(exact * (1 - ROUNDING))
    return max(1, math.floor(exact * (1 + ROUNDING)))
