"""Collects what the rules say about channels in one pass over a graph."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping

from keras_branch_prune.channels.cuts import cuts_at, wanted_cuts
from keras_branch_prune.channels.layouts import Block, Layout, Layouts, Segment
from keras_branch_prune.common import DisjointSets
from keras_branch_prune.graph import Unit, Value

Cuts = Mapping[str, Collection[int]]
"""Name of a source of channels → offsets at which they are cut: `{"stem": {4}}` makes two runs."""

Positions = Mapping[str, int]
"""Name of a source → positions in its axis: `{"dense": 16}` makes 512 units 16 × 32 channels."""


@dataclasses.dataclass(frozen=True)
class ChannelRun:
    """Neighbouring channels of one source.

    Args:
        source: Name of the linear layer that produces them, or of constant channels.
        unit: That layer, or `None`.
        start: First channel, counted within one position of the source.
        stop: Channel after the last.
        positions: Number of positions of the source, each with all its channels.
    """

    source: str
    unit: Unit | None
    start: int
    stop: int
    positions: int = 1

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.stop - self.start


class ChannelTracker:
    """What the rules said about channels in one pass over the graph.

    A source of channels is one run with its name; a source that is cut is several, with names like
    `conv[0:22]`. Layouts of one pass never change. Where `tie` meets runs that end at different
    channels, or `cut` an offset inside a run, it asks for cuts (`new_cuts`), with which the next
    pass begins. Likewise `unfold` asks for positions (`new_positions`).

    Args:
        cuts: Where the sources are cut.
        positions: Which sources have several positions.
        refine: Whether cuts and positions may be asked for; else what does not match is kept whole.

    Attributes:
        sets: Names of runs; those of one set have one width.
        runs: The runs by name.
        reasons: Pairs `(name of a run, why it is kept whole)`, in the order of the calls.
        consumers: What `consume` was told, in the order of the calls.
        conv_groups: Pairs `(name of a run, number of equal parts it must keep)`.
    """

    def __init__(self, cuts: Cuts, positions: Positions, *, refine: bool = True) -> None:
        self.sets = DisjointSets()
        self.runs: dict[str, ChannelRun] = {}
        self.reasons: list[tuple[str, str]] = []
        self.consumers: list[tuple[Value, Unit, str, int]] = []
        self.conv_groups: list[tuple[str, int]] = []
        self._cuts = cuts
        self._positions = positions
        self._refine = refine
        self._wanted: list[tuple[str, int]] = []
        self._unfolded: dict[str, int] = {}
        self._stand_ins = 0
        self._constant_sources = 0
        self._shared: dict[tuple[Unit, str], Layout | None] = {}

    def produce(self, unit: Unit, axis: int, channels: int) -> Layout:
        """Returns the layout of the channels that `unit` produces, the same ones at every call."""
        layout = self._source(unit.name, unit, axis, channels)
        singles = [segment.group for segment in layout.segments() if segment.channels == 1]
        self.reasons.extend((name, "is a single channel") for name in singles)
        return layout

    def constant_source(self, axis: int, channels: int | None) -> Layout:
        """Returns the layout of channels that no layer produces and that are kept whole.

        Raises:
            ValueError: If their number is not known.
        """
        if channels is None:
            raise ValueError("The channels of a tensor must be static to be followed")
        name = f"constant:{self._constant_sources}"
        self._constant_sources += 1
        layout = self._source(name, None, axis, channels)
        self.keep_whole(layout, "is joined with channels that are fixed")
        return layout

    def tie(self, layouts: Layouts, where: str) -> None:
        """Makes all layouts keep the same channels; if that is impossible, keeps them whole."""
        known = [layout for layout in layouts if layout is not None]
        reason = None
        # What is not tracked stays whole, and so must all that has the same channels.
        if len(known) < len(layouts):
            reason = f"{where} joins it with channels that are fixed"
        elif len({layout.structure() for layout in known}) > 1:
            cuts = wanted_cuts(known) if self._refine else None
            # With these cuts the structures will be equal in the next pass, and can be tied.
            if cuts is not None:
                self._wanted.extend(cuts)
                return
            reason = f"{where} joins groups that are concatenated differently"
        for layout in known:
            self._unite(known[0], layout) if reason is None else self.keep_whole(layout, reason)

    def tie_calls(self, unit: Unit, role: str, layout: Layout | None) -> None:
        """Ties `layout` to what the unit's other calls read by `role`: they share a kernel."""
        earlier = self._shared.setdefault((unit, role), layout)
        if earlier is not layout:
            self.tie([earlier, layout], f"'{unit.name}' ({unit.cls.__name__}, shared)")

    def cut(self, layout: Layout, start: int, stop: int, where: str) -> Layout | None:
        """Returns the layout of channels `start` to `stop`, which become groups of their own.

        If there are no cuts there yet, it asks for them and returns a stand-in; where they cannot
        be cut, it keeps them whole and returns `None`.
        """
        cuts = cuts_at(layout, (start, stop))
        if cuts is None or (cuts and not self._refine):
            self.keep_whole(layout, f"{where} parts channels that cannot be cut there")
            return None
        if not cuts:
            return layout.part(start, stop)
        self._wanted.extend(cuts)
        return self._stand_in(layout.axis, stop - start)

    def unfold(self, layout: Layout, positions: int, where: str) -> Layout | None:
        """Returns the layout after a reshape has moved the positions out of the channel axis.

        A `Dense` of 512 units before `Reshape((4, 4, 32))` turns out to have 32 channels at 16
        positions. In the pass that finds this, it asks for the positions and returns a stand-in of
        32 channels; in the next pass the `Dense` produces them so, and the layout is one position
        of it. `None` where that is impossible; then the channels are kept whole.
        """
        block, *others = layout.blocks
        if not others and block.positions == positions:
            return Layout(layout.axis, (Block(1, block.segments),))
        segment = layout.single_segment()
        known = segment and self.runs.get(segment.group)
        # A source known to have 1 position is cut, or tied to one that is: see `new_positions`.
        if not segment or not known or known.source in self._positions or not self._refine:
            reason = f"{where} parts channels into positions that are not known as such"
            self.keep_whole(layout, reason)
            return None
        # If another reshape parts the axis differently, it finds other positions in the next pass.
        self._unfolded.setdefault(segment.group, positions)
        return self._stand_in(layout.axis, segment.channels // positions)

    def keep_whole(self, layout: Layout | None, reason: str) -> None:
        """Keeps all groups of `layout` at their width."""
        if layout is not None:
            self.reasons.extend((name, reason) for name in sorted(layout.groups()))

    def consume(self, value: Value, unit: Unit, role: str, conv_groups: int = 1) -> None:
        """Notes that `unit` reads `value` through a kernel: that of `role`, in `conv_groups`."""
        self.consumers.append((value, unit, role, conv_groups))

    def partition(self, layout: Layout, conv_groups: int) -> None:
        """Makes each of `conv_groups` equal parts of the channels keep the same number of them.

        Channels that are joined with others are kept whole.
        """
        segment = layout.single_segment()
        if segment is None:
            reason = f"is split into {conv_groups} groups, but joined with other channels"
            self.keep_whole(layout, reason)
        else:
            self.conv_groups.append((segment.group, conv_groups))

    def new_cuts(self) -> dict[str, set[int]]:
        """Returns the cuts that this pass asked for, in all sources that are tied to each other."""
        # What is tied must stay alike: one run's cut is made in all runs of its set.
        offsets: dict[str, set[int]] = {}
        for name, offset in self._wanted:
            offsets.setdefault(self.sets.find(name), set()).add(offset)
        cuts: dict[str, set[int]] = {}
        for name, run in self.runs.items():
            for offset in offsets.get(self.sets.find(name), ()):
                cuts.setdefault(run.source, set()).add(run.start + offset)
        return cuts

    def new_positions(self) -> dict[str, int]:
        """Returns the positions that this pass asked for, of all sources tied to each other.

        Where one of them is cut, all get the entry 1: they keep their one position, and `unfold`
        does not ask for it again.
        """
        wanted = {self.sets.find(name): positions for name, positions in self._unfolded.items()}
        found: dict[str, int] = {}
        for root, positions in wanted.items():
            tied = {run.source for name, run in self.runs.items() if self.sets.find(name) == root}
            is_cut = any(self._cuts.get(source) for source in tied)
            found |= dict.fromkeys(tied, 1 if is_cut else positions)
        return found

    def _source(self, name: str, unit: Unit | None, axis: int, channels: int) -> Layout:
        positions = self._positions.get(name, 1)
        channels //= positions
        ends = [0, *sorted(self._cuts.get(name, ())), channels]
        segments = []
        for start, stop in itertools.pairwise(ends):
            run = ChannelRun(name, unit, start, stop, positions)
            label = name if run.channels == channels else f"{name}[{start}:{stop}]"
            self.sets.add(label)
            self.runs[label] = run
            segments.append(Segment(label, run.channels))
        return Layout(axis, (Block(positions, tuple(segments)),))

    def _stand_in(self, axis: int, channels: int) -> Layout:
        """Returns a layout for the rest of this pass, after which nothing of it is left.

        It is no run: cuts that are asked of it are made only in the runs that it is tied to.
        """
        name = f"part:{self._stand_ins}"
        self._stand_ins += 1
        self.sets.add(name)
        return Layout.of_group(axis, name, channels)

    def _unite(self, a: Layout, b: Layout) -> None:
        for one, other in zip(a.segments(), b.segments(), strict=True):
            self._unite_segments(one, other)

    def _unite_segments(self, one: Segment, other: Segment) -> None:
        self.sets.unite(one.group, other.group)
        if one.inner is not None and other.inner is not None:
            self._unite_segments(one.inner, other.inner)
