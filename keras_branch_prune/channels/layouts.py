"""How the channel axis of a tensor is made up of channel groups.

An example, a residual block with a concatenation, on images of 2 × 2 positions:

    stem = Conv2D(6, 1, name="stem")(image)
    left = Conv2D(4, 1, name="left")(stem)
    right = Conv2D(2, 1, name="right")(stem)
    joined = Concatenate()([left, right])
    summed = Add()([stem, joined])
    flat = Flatten()(summed)
    head = Dense(5, name="head")(flat)

**Runs and cuts.** In the first pass over the graph (`tracker.py`) the channels of every layer are
one run. The sum would tie the run `stem` of 6 channels to `left | right`, 4 and 2 channels side by
side. As they end at other channels, it ties nothing and asks for a cut of `stem` after channel 4
(`cuts.py`). In the second pass `stem` is two runs, and nobody asks for more:

    tensor          layout                          channels
    stem, summed    stem[0:4] | stem[4:6]           4 + 2
    joined          left | right                    4 + 2
    flat            4 × (stem[0:4] | stem[4:6])     4 · (4 + 2) = 24

**Groups.** The sum ties `left` to `stem[0:4]`, and `right` to `stem[4:6]`: two groups, named after
their first runs, of 4 and 2 channels. So `joined` has the same layout as `stem` in the end.

**Widths.** If `{"stem[0:4]": [0, 3], "stem[4:6]": [1]}` are kept,

    tensor    channels    those that stay
    stem      6 → 3       0, 3, 5
    left      4 → 2       0, 3
    right     2 → 1       1
    flat      24 → 12     0, 3, 5 at the first position, 6, 9, 11 at the second …

**Maps.** The reduce map of `stem` is one matrix (6, 3), with a 1 where a channel is taken; the
expand map before `left` and `right` is its transpose. That before `head` is one block of 4
positions, which share a matrix (3, 6). In the merged model the kernel of `head`, (24, 5), is
(12, 5).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from keras_branch_prune.channels.kernels import ChannelMatrices
from keras_branch_prune.graph import Deferred

Kept = Mapping[str, Sequence[int] | np.ndarray]
"""Channel group name → indices of the channels that stay; a group that is missing keeps all."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """The channels of one group.

    Args:
        group: Name of the group.
        channels: Number of its channels.
        repeat: How often each of them stands (depthwise multipliers).
        inner: What stands in the place of each of them instead: the channels of another group
            (attention heads, which consist of value channels).
    """

    group: str
    channels: int
    repeat: int = 1
    inner: Segment | None = None

    @property
    def size(self) -> int:
        """Length along the channel axis."""
        return self.channels * (self.inner.size if self.inner else self.repeat)

    def kept_indices(self, kept: Kept) -> np.ndarray:
        """Returns the indices of the channels that stay, counted within the segment."""
        indices = np.asarray(kept.get(self.group, range(self.channels)), dtype=np.int64)
        within = self.inner.kept_indices(kept) if self.inner else np.arange(self.repeat)
        return (indices[:, None] * (self.size // self.channels) + within).ravel()

    def columns(self, group: str) -> np.ndarray:
        """Returns where the channels of a group stand in the segment, `(copies, channels)`."""
        places = np.arange(self.size).reshape(self.channels, -1)
        if self.group == group:
            return places.T
        assert self.inner is not None
        inner = self.inner.columns(group)
        return (places[:, :1, None] + inner[None]).reshape(-1, inner.shape[1])

    def width(self, kept: Kept) -> int:
        """Returns the number of the group's channels that stay."""
        return len(kept.get(self.group, range(self.channels)))

    def kept_size(self, kept: Kept) -> int:
        """Returns the length along the channel axis of what stays."""
        return self.width(kept) * (self.inner.kept_size(kept) if self.inner else self.repeat)

    def is_narrowed(self, kept: Kept) -> bool:
        """Whether any of the channels go."""
        inside = self.inner is not None and self.inner.is_narrowed(kept)
        return inside or self.width(kept) < self.channels

    def structure(self) -> tuple:
        """Returns the sizes without the groups."""
        return (self.channels, self.repeat, *(self.inner.structure() if self.inner else ()))

    def relabelled(self, names: Mapping[str, str]) -> Segment:
        """Returns the segment with its groups renamed."""
        inner = self.inner and self.inner.relabelled(names)
        return dataclasses.replace(self, group=names[self.group], inner=inner)

    def groups(self) -> set[str]:
        """Returns the names of its groups."""
        return {self.group} | (self.inner.groups() if self.inner else set())


@dataclasses.dataclass(frozen=True)
class Block:
    """Segments side by side, repeated for a number of positions (more than 1 after `Flatten`)."""

    positions: int
    segments: tuple[Segment, ...]

    @property
    def channels(self) -> int:
        """Channels at one position."""
        return sum(segment.size for segment in self.segments)

    def kept_indices(self, kept: Kept) -> np.ndarray:
        """Returns the indices of the channels that stay at one position."""
        starts = [0, *self.ends()]
        pairs = zip(self.segments, starts, strict=False)
        return np.concatenate([s.kept_indices(kept) + start for s, start in pairs])

    def ends(self) -> list[int]:
        """Returns where the segments end, counted in channels of one position."""
        return list(itertools.accumulate(segment.size for segment in self.segments))


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
        return set().union(*(segment.groups() for segment in self.segments()))

    def columns(self, group: str) -> np.ndarray:
        """Returns where the channels of a group stand along the axis, `(copies, channels)`.

        A channel stands there several times at several positions, or if a layer repeats it.
        """
        found, start = [], 0
        for block in self.blocks:
            offsets = start + block.channels * np.arange(block.positions)
            for segment, end in zip(block.segments, block.ends(), strict=True):
                if group in segment.groups():
                    columns = segment.columns(group) + end - segment.size
                    found.append((offsets[:, None, None] + columns).reshape(-1, columns.shape[1]))
            start += block.positions * block.channels
        return np.concatenate(found)

    def structure(self) -> tuple:
        """Returns the sizes without the groups: two tensors can be tied if these are equal."""
        return tuple((b.positions, *(s.structure() for s in b.segments)) for b in self.blocks)

    def relabelled(self, names: Mapping[str, str]) -> Layout:
        """Returns the layout with every group renamed."""
        return self._map(lambda s: s.relabelled(names))

    def repeated(self, times: int) -> Layout:
        """Returns the layout with every channel repeated in place."""
        return self._map(lambda s: dataclasses.replace(s, repeat=s.repeat * times))

    def single_segment(self) -> Segment | None:
        """Returns the segment if there is but one, of one position, and no channel repeats."""
        segments = list(self.segments())
        plain = len(segments) == 1 and self.blocks[0].positions == segments[0].repeat == 1
        return segments[0] if plain and segments[0].inner is None else None

    def part(self, start: int, stop: int) -> Layout:
        """Returns the layout of the segments between two of their ends, all of one position."""
        (block,) = self.blocks
        pairs = zip(block.segments, block.ends(), strict=True)
        segments = tuple(segment for segment, end in pairs if start < end <= stop)
        return Layout(self.axis, (Block(1, segments),))

    def _map(self, change: Callable[[Segment], Segment]) -> Layout:
        blocks = (Block(b.positions, tuple(map(change, b.segments))) for b in self.blocks)
        return Layout(self.axis, tuple(blocks))

    def is_narrowed(self, kept: Kept) -> bool:
        """Whether any of the channels go."""
        return any(segment.is_narrowed(kept) for segment in self.segments())

    def kept_indices(self, kept: Kept) -> np.ndarray:
        """Returns the indices along the channel axis that stay."""
        parts, start = [], 0
        for block in self.blocks:
            offsets = start + block.channels * np.arange(block.positions)
            parts.append((offsets[:, None] + block.kept_indices(kept)[None, :]).ravel())
            start += block.positions * block.channels
        return np.concatenate(parts)

    def width(self, kept: Kept) -> int:
        """Returns the number of indices along the channel axis that stay."""
        return sum(b.positions * sum(s.kept_size(kept) for s in b.segments) for b in self.blocks)

    def expand_map(self, kept: Kept, conv_groups: int = 1) -> ChannelMatrices:
        """Returns the map that puts the channels that stay to their places, and 0 to all others.

        Args:
            kept: The channels that stay.
            conv_groups: Number of runs of channels that the map must not mix, each a block of its
                own; more than 1 only for a single segment.

        Returns:
            Matrices `(k, channels)`, which are not made before they are asked for.
        """
        if conv_groups == 1:
            blocks = [(b.positions, _rows(b.kept_indices(kept), b.channels)) for b in self.blocks]
        else:
            (block,) = self.blocks
            size = block.channels // conv_groups
            runs = np.split(block.kept_indices(kept), conv_groups)
            blocks = [(1, _rows(run - start * size, size)) for start, run in enumerate(runs)]
        return ChannelMatrices(tuple(blocks))

    def reduce_map(self, kept: Kept, conv_groups: int = 1) -> ChannelMatrices:
        """Returns the map that takes the channels that stay, the transpose of `expand_map`."""
        return self.expand_map(kept, conv_groups).transposed()


Layouts = Sequence[Layout | None]
"""One layout per input tensor; `None` where the channels are not tracked: they all stay."""


def _rows(indices: np.ndarray, channels: int) -> Deferred:
    """Returns the rows of the identity at some indices, `(k, channels)`."""

    def make() -> np.ndarray:
        matrix = np.zeros((len(indices), channels), np.float32)
        matrix[np.arange(len(indices)), indices] = 1.0
        return matrix

    return Deferred((len(indices), channels), make)
