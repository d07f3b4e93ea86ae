"""Finds the channel groups of a model: which can be narrowed, and which must stay, and why."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from keras_branch_prune.graph import Call, Graph, Unit, Value
from keras_branch_prune.layouts import Layout
from keras_branch_prune.rule_kinds import Layouts
from keras_branch_prune.rules import rule_for


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channels that share one width.

    Args:
        name: Name of the group's first producer.
        channels: Number of channels.
        producers: Names of the linear layers that produce these channels.
        consumers: Names of the linear layers that consume them.
        reason: Why the group cannot be pruned, or `None` if it can.
        partitions: Number of equal runs of channels that must keep the same number of channels
            each (more than 1 for grouped convolutions).
    """

    name: str
    channels: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    reason: str | None = None
    partitions: int = 1

    @property
    def prunable(self) -> bool:
        """Whether the group may be narrowed."""
        return self.reason is None


@dataclasses.dataclass(frozen=True)
class Exit:
    """Where a tensor leaves its region towards linear layers.

    Args:
        name: Name of the first of these layers; tensors of one name share their expand map.
        groups: Number of runs of channels that the expand map must not mix.
    """

    name: str
    groups: int


@dataclasses.dataclass(frozen=True, eq=False)
class Analysis:
    """What is known about the channels of a graph.

    Args:
        graph: The canonical graph.
        groups: All channel groups, in the order of their first producers.
        producers: Group name → the units that produce it.
        layouts: The layout of every tensor whose channels are tracked.
        exits: Every tensor that a linear layer consumes → its exit.
    """

    graph: Graph
    groups: tuple[ChannelGroup, ...]
    producers: Mapping[str, tuple[Unit, ...]]
    layouts: Mapping[Value, Layout]
    exits: Mapping[Value, Exit]


def analyse(graph: Graph) -> Analysis:
    """Returns the channel groups of a canonical graph."""
    tracker = _Tracker()
    layouts: dict[Value, Layout | None] = dict.fromkeys(graph.input_values)
    for call in graph.calls:
        outputs = _trace(call, [layouts[value] for value in call.inputs], tracker)
        layouts.update(zip(call.outputs, outputs, strict=True))
    for value in graph.output_values:
        tracker.fix(layouts[value], "is a model output")
    return _freeze(graph, {v: layout for v, layout in layouts.items() if layout}, tracker)


def _trace(call: Call, layouts: Layouts, tracker: _Tracker) -> list[Layout | None]:
    layout = rule_for(call.unit).trace(call, layouts, tracker)
    return [layout] + [None] * (len(call.outputs) - 1)


def _freeze(graph: Graph, layouts: dict[Value, Layout], tracker: _Tracker) -> Analysis:
    names = {name: tracker.sets.find(name) for name in tracker.channels}
    layouts = {value: layout.relabelled(names) for value, layout in layouts.items()}
    producers: dict[str, list[Unit]] = {}
    for unit in tracker.producers:
        producers.setdefault(names[unit.name], []).append(unit)
    consumers: dict[str, list[str]] = {name: [] for name in producers}
    for value, unit, _, _ in tracker.consumers:
        for name in layouts[value].groups() & producers.keys() if value in layouts else ():
            consumers[name].append(unit.name)
    reasons: dict[str, str] = {}
    for name, reason in tracker.reasons:
        reasons.setdefault(names[name], reason)
    partitions = dict.fromkeys(producers, 1)
    for name, parts in tracker.partitions:
        root = names[name]
        partitions[root] = math.lcm(partitions.get(root, 1), parts)
        if partitions[root] >= tracker.channels[root]:
            reasons.setdefault(root, "is used in groups of one channel")
    groups = tuple(
        ChannelGroup(
            name=name,
            channels=tracker.channels[name],
            producers=tuple(unit.name for unit in units),
            consumers=tuple(dict.fromkeys(consumers[name])),
            reason=reasons.get(name),
            partitions=partitions[name],
        )
        for name, units in producers.items()
    )
    frozen_producers = {name: tuple(units) for name, units in producers.items()}
    return Analysis(graph, groups, frozen_producers, layouts, _exits(tracker.consumers))


def _exits(consumers: list[tuple[Value, Unit, str, int]]) -> dict[Value, Exit]:
    """Joins the tensors that are read by the same kernel: they must share an expand map."""
    sets = DisjointSets()
    for value, unit, role, _ in consumers:
        sets.add(value)
        sets.add((unit, role))
        sets.unite(value, (unit, role))
    names: dict[Any, str] = {}
    groups: dict[Any, int] = {}
    for value, unit, _, parts in consumers:
        root = sets.find(value)
        names.setdefault(root, unit.name)
        groups[root] = math.lcm(groups.get(root, 1), parts)
    roots = {value: sets.find(value) for value, _, _, _ in consumers}
    return {value: Exit(names[root], groups[root]) for value, root in roots.items()}


class DisjointSets:
    """Disjoint sets; the item added first represents its set."""

    def __init__(self) -> None:
        self._parent: dict[Any, Any] = {}
        self._order: dict[Any, int] = {}

    def add(self, item: Any) -> None:
        """Adds `item` as a set of its own, if it is new."""
        if item not in self._parent:
            self._parent[item] = item
            self._order[item] = len(self._order)

    def find(self, item: Any) -> Any:
        """Returns the representative of the item's set."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def unite(self, a: Any, b: Any) -> None:
        """Joins the sets of two items."""
        first, second = sorted((self.find(a), self.find(b)), key=self._order.__getitem__)
        self._parent[second] = first


class _Tracker:
    """Collects what the rules say while the graph is traced; implements `rule_kinds.Tracker`."""

    def __init__(self) -> None:
        self.sets = DisjointSets()
        self.channels: dict[str, int] = {}
        self.reasons: list[tuple[str, str]] = []
        self.producers: dict[Unit, None] = {}
        self.consumers: list[tuple[Value, Unit, str, int]] = []
        self.partitions: list[tuple[str, int]] = []
        self._shared: dict[tuple[Unit, str], Layout | None] = {}

    def produce(self, unit: Unit, axis: int, channels: int) -> Layout:
        """See `rule_kinds.Tracker`. A unit called several times produces one group."""
        self.producers[unit] = None
        self._add(unit.name, channels)
        if channels == 1:
            self.reasons.append((unit.name, "is a single channel"))
        return Layout.of_group(axis, unit.name, channels)

    def fixed(self, axis: int, channels: int | None) -> Layout:
        """See `rule_kinds.Tracker`."""
        if channels is None:
            raise ValueError("The channels of a tensor must be static to be followed")
        name = f"fixed:{len(self.channels)}"
        self._add(name, channels)
        return Layout.of_group(axis, name, channels)

    def tie(self, layouts: Layouts, where: str) -> None:
        """See `rule_kinds.Tracker`."""
        known = [layout for layout in layouts if layout is not None]
        reason = None
        if len(known) < len(layouts):
            reason = f"{where} joins it with channels that are fixed"
        elif len({layout.structure() for layout in known}) > 1:
            reason = f"{where} joins groups that are concatenated differently"
        for layout in known:
            self._unite(known[0], layout) if reason is None else self.fix(layout, reason)

    def tie_calls(self, unit: Unit, role: str, layout: Layout | None) -> None:
        """See `rule_kinds.Tracker`."""
        earlier = self._shared.setdefault((unit, role), layout)
        if earlier is not layout:
            self.tie([earlier, layout], f"'{unit.name}' ({unit.cls.__name__}, shared)")

    def fix(self, layout: Layout | None, reason: str) -> None:
        """See `rule_kinds.Tracker`."""
        if layout is not None:
            self.reasons.extend((segment.group, reason) for segment in layout.segments())

    def consume(self, value: Value, unit: Unit, role: str, groups: int = 1) -> None:
        """See `rule_kinds.Tracker`."""
        self.consumers.append((value, unit, role, groups))

    def partition(self, layout: Layout, parts: int) -> None:
        """See `rule_kinds.Tracker`."""
        self.partitions.extend((segment.group, parts) for segment in layout.segments())

    def _add(self, name: str, channels: int) -> None:
        self.sets.add(name)
        self.channels[name] = channels

    def _unite(self, a: Layout, b: Layout) -> None:
        for one, other in zip(a.segments(), b.segments(), strict=True):
            self.sets.unite(one.group, other.group)
