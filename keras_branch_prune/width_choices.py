"""The widths that a channel group may have."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Mapping, Sequence

from keras_branch_prune.groups import ChannelGroup


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
    multiple = math.lcm(round_to or 1, group.partitions)
    return multiple if multiple <= group.channels else group.partitions


def width_choices(
    groups: Sequence[ChannelGroup],
    round_to: int | None = None,
    floors: Mapping[str, int] | None = None,
    ceilings: Mapping[str, int] | None = None,
) -> list[WidthChoices]:
    """Returns the choices of every group.

    Args:
        groups: Groups that can be pruned.
        round_to: Widths are multiples of it, or the full width.
        floors: Smallest widths, by group.
        ceilings: Largest widths, by group.

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
            width_multiple(group, round_to),
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
