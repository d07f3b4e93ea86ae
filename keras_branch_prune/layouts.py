"""How the channel axis of a tensor is made up of channel groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

Kept = Mapping[str, Sequence[int]]
"""Channel group name → indices of the channels that stay; a group that is missing keeps all."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """The channels of one group; each stands `repeat` times (depthwise multipliers)."""

    group: str
    channels: int
    repeat: int = 1

    @property
    def size(self) -> int:
        """Length along the channel axis."""
        return self.channels * self.repeat

    def kept(self, kept: Kept) -> np.ndarray:
        """Returns the indices of the channels that stay, counted within the segment."""
        indices = np.asarray(kept.get(self.group, range(self.channels)), dtype=np.int64)
        return (indices[:, None] * self.repeat + np.arange(self.repeat)).ravel()

    def is_narrowed(self, kept: Kept) -> bool:
        """Whether any of the channels go."""
        return len(kept.get(self.group, range(self.channels))) < self.channels


@dataclasses.dataclass(frozen=True)
class Block:
    """Segments side by side, repeated for a number of positions (more than 1 after `Flatten`)."""

    positions: int
    segments: tuple[Segment, ...]

    @property
    def channels(self) -> int:
        """Channels at one position."""
        return sum(segment.size for segment in self.segments)

    def kept(self, kept: Kept) -> np.ndarray:
        """Returns the indices of the channels that stay at one position."""
        starts = np.cumsum([0, *(segment.size for segment in self.segments)])
        parts = [s.kept(kept) + start for s, start in zip(self.segments, starts, strict=False)]
        return np.concatenate(parts)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The channel axis of a tensor (counted with the batch dimension) and its blocks in order."""

    axis: int
    blocks: tuple[Block, ...]

    @classmethod
    def of_group(cls, axis: int, group: str, channels: int) -> Layout:
        """Returns the layout of a tensor whose channels are exactly one group."""
        return cls(axis, (Block(1, (Segment(group, channels),)),))

    def segments(self) -> Iterator[Segment]:
        """Yields all segments in order."""
        for block in self.blocks:
            yield from block.segments

    def groups(self) -> set[str]:
        """Returns the names of the groups in this layout."""
        return {segment.group for segment in self.segments()}

    def structure(self) -> tuple:
        """Returns the sizes without the groups: two tensors can be tied if these are equal."""
        return tuple(
            (b.positions, *((s.channels, s.repeat) for s in b.segments)) for b in self.blocks
        )

    def relabelled(self, names: Mapping[str, str]) -> Layout:
        """Returns the layout with every group renamed."""
        return self._map(lambda s: dataclasses.replace(s, group=names[s.group]))

    def repeated(self, times: int) -> Layout:
        """Returns the layout with every channel repeated in place."""
        return self._map(lambda s: dataclasses.replace(s, repeat=s.repeat * times))

    def single_segment(self) -> Segment | None:
        """Returns the segment if there is but one, of one position, and no channel repeats."""
        segments = list(self.segments())
        plain = len(segments) == 1 and self.blocks[0].positions == segments[0].repeat == 1
        return segments[0] if plain else None

    def _map(self, change: Callable[[Segment], Segment]) -> Layout:
        blocks = (Block(b.positions, tuple(map(change, b.segments))) for b in self.blocks)
        return Layout(self.axis, tuple(blocks))

    def is_narrowed(self, kept: Kept) -> bool:
        """Whether any of the channels go."""
        return any(segment.is_narrowed(kept) for segment in self.segments())

    def kept(self, kept: Kept) -> np.ndarray:
        """Returns the indices along the channel axis that stay."""
        parts, start = [], 0
        for block in self.blocks:
            offsets = start + block.channels * np.arange(block.positions)
            parts.append((offsets[:, None] + block.kept(kept)[None, :]).ravel())
            start += block.positions * block.channels
        return np.concatenate(parts)


def side_by_side(axis: int, layouts: Sequence[Layout]) -> Layout:
    """Returns the layout of tensors concatenated along their channel axis.

    Neighbouring blocks of one position become one block, so that an expand map can mix them.
    """
    blocks: list[Block] = []
    for block in (block for layout in layouts for block in layout.blocks):
        if blocks and blocks[-1].positions == block.positions == 1:
            block = Block(1, blocks.pop().segments + block.segments)
        blocks.append(block)
    return Layout(axis, tuple(blocks))
