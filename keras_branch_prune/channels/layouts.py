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
    """The channels of one group, next to each other along an axis.

    Args:
        group: Name of the group.
        channels: Number of its channels.
        repeat: Indices along the axis per channel: a depth multiplier of 3 puts 3 copies of each
            channel side by side.
        inner: For attention heads, the value channels that each head consists of. A segment of 4
            heads with an inner segment of 16 channels has 4 · 16 = 64 indices along the axis: head
            0 has the first 16.
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
        """Returns the indices along the axis that stay, counted within the segment."""
        indices = np.asarray(kept.get(self.group, range(self.channels)), dtype=np.int64)
        within = self.inner.kept_indices(kept) if self.inner else np.arange(self.repeat)
        return (indices[:, None] * (self.size // self.channels) + within).ravel()

    def columns(self, group: str) -> np.ndarray:
        """Returns where the channels of a group are in the segment, `(copies, channels)`.

        Where 4 heads have 16 value channels each, the heads have 16 copies, `(16, 4)`, and the
        value channels 4, one per head, `(4, 16)`.
        """
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
        """Returns the length along the channel axis after pruning."""
        return self.width(kept) * (self.inner.kept_size(kept) if self.inner else self.repeat)

    def is_narrowed(self, kept: Kept) -> bool:
        """Whether any of the channels go."""
        inside = self.inner is not None and self.inner.is_narrowed(kept)
        return inside or self.width(kept) < self.channels

    def structure(self) -> tuple:
        """Returns the sizes without the names of the groups."""
        return (self.channels, self.repeat, *(self.inner.structure() if self.inner else ()))

    def relabel(self, names: Mapping[str, str]) -> Segment:
        """Returns the segment with its groups renamed."""
        inner = self.inner and self.inner.relabel(names)
        return dataclasses.replace(self, group=names[self.group], inner=inner)

    def groups(self) -> set[str]:
        """Returns the names of its group and of the inner one."""
        return {self.group} | (self.inner.groups() if self.inner else set())


@dataclasses.dataclass(frozen=True)
class Block:
    """Segments side by side, again for each of some positions (more than 1 after `Flatten`).

    Of 2 × 2 positions with 6 channels, flattened, index 6 is channel 0 at the second position.
    """

    positions: int
    segments: tuple[Segment, ...]

    @property
    def channels(self) -> int:
        """Channels at one position."""
        return sum(segment.size for segment in self.segments)

    def kept_indices(self, kept: Kept) -> np.ndarray:
        """Returns the indices that stay, counted within one position."""
        starts = [0, *self.ends()]
        pairs = zip(self.segments, starts, strict=False)
        return np.concatenate([s.kept_indices(kept) + start for s, start in pairs])

    def ends(self) -> list[int]:
        """Returns where the segments end, counted within one position."""
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
        """Returns where the channels of a group are along the axis, `(copies, channels)`.

        A channel has several copies if there are several positions, a depth multiplier repeats it,
        or the group is concatenated with itself.
        """
        found = []
        for block, starts in self._placed_blocks():
            for segment, end in zip(block.segments, block.ends(), strict=True):
                if group in segment.groups():
                    columns = segment.columns(group) + end - segment.size
                    found.append((starts[:, None, None] + columns).reshape(-1, columns.shape[1]))
        return np.concatenate(found)

    def structure(self) -> tuple:
        """Returns the sizes without the names: two tensors can be tied if these are equal."""
        return tuple((b.positions, *(s.structure() for s in b.segments)) for b in self.blocks)

    def relabel(self, names: Mapping[str, str]) -> Layout:
        """Returns the layout with every group renamed."""
        return self._map_segments(lambda s: s.relabel(names))

    def repeat(self, times: int) -> Layout:
        """Returns the layout with every channel repeated in place."""
        return self._map_segments(lambda s: dataclasses.replace(s, repeat=s.repeat * times))

    def single_segment(self) -> Segment | None:
        """Returns the only segment if each of its channels is exactly one index, else `None`."""
        segment = next(self.segments())
        plain = Layout.of_group(self.axis, segment.group, segment.channels)
        return segment if self == plain else None

    def part(self, start: int, stop: int) -> Layout:
        """Returns the layout of some segments; `start` and `stop` must be ends of segments."""
        (block,) = self.blocks
        pairs = zip(block.segments, block.ends(), strict=True)
        segments = tuple(segment for segment, end in pairs if start < end <= stop)
        return Layout(self.axis, (Block(1, segments),))

    def _map_segments(self, change: Callable[[Segment], Segment]) -> Layout:
        blocks = (Block(b.positions, tuple(map(change, b.segments))) for b in self.blocks)
        return Layout(self.axis, tuple(blocks))

    def is_narrowed(self, kept: Kept) -> bool:
        """Whether any of the channels go."""
        return any(segment.is_narrowed(kept) for segment in self.segments())

    def kept_indices(self, kept: Kept) -> np.ndarray:
        """Returns the indices along the channel axis that stay."""
        pairs = self._placed_blocks()
        return np.concatenate([(s[:, None] + b.kept_indices(kept)).ravel() for b, s in pairs])

    def _placed_blocks(self) -> Iterator[tuple[Block, np.ndarray]]:
        """Yields every block, and where along the axis each of its positions starts."""
        start = 0
        for block in self.blocks:
            yield block, start + block.channels * np.arange(block.positions)
            start += block.positions * block.channels

    def width(self, kept: Kept) -> int:
        """Returns the number of indices along the channel axis that stay."""
        return sum(b.positions * sum(s.kept_size(kept) for s in b.segments) for b in self.blocks)

    def expand_map(self, kept: Kept, conv_groups: int = 1) -> ChannelMatrices:
        """Returns the map k → C that puts every kept channel where it was, and 0 elsewhere.

        Args:
            kept: The channels that stay.
            conv_groups: Number of equal runs of channels that the map must not mix, each a block of
                its own; more than 1 only for a single segment.

        Returns:
            Matrices `(k, C)` per block, deferred.
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
        """Returns the map C → k that selects the kept channels, the transpose of `expand_map`."""
        return self.expand_map(kept, conv_groups).transpose()


Layouts = Sequence[Layout | None]
"""One layout per input tensor; `None` where the channels are not tracked: they all stay."""


def _rows(indices: np.ndarray, channels: int) -> Deferred:
    """Returns the rows of the identity at some indices, `(k, channels)`."""

    def make() -> np.ndarray:
        matrix = np.zeros((len(indices), channels), np.float32)
        matrix[np.arange(len(indices)), indices] = 1.0
        return matrix

    return Deferred((len(indices), channels), make)
