"""Finds the channel groups of a model: which can be narrowed, which cannot, and why not."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import keras

from keras_branch_prune.channels import ChannelRun, ChannelTracker, Layout
from keras_branch_prune.common import DisjointSets
from keras_branch_prune.graph import Graph, Unit, Value, canonical, is_finite
from keras_branch_prune.layers import Alpha
from keras_branch_prune.rules import Elementwise, SlicingRule, rule_for

_MAX_PASSES = 64
_GATES = frozenset({"Multiply", "Divide", "TrueDivide"})
"""Names of elementwise merges that scale a tensor rather than continue it."""


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channels that share one width.

    Args:
        name: Name of the group's first producer, with the range of its channels, such as
            `conv[0:22]`, if others of its channels belong to other groups.
        channels: Number of channels.
        producers: Names of the linear layers that produce these channels.
        consumers: Names of the linear layers that consume them.
        reason: Why the group cannot be pruned, or `None` if it can.
        conv_groups: Number of equal parts of the group that must keep equally many channels, such
            as the groups of a grouped convolution; else 1.
        parts: The channels of the producers, such as `("a", "conv[0:22]")`, if the group has only
            some of a producer's; else empty.
        residual: Whether several layers produce these channels and an elementwise merge other than
            a product or quotient (a gate) joins them, as in a residual stream.
    """

    name: str
    channels: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    reason: str | None = None
    conv_groups: int = 1
    parts: tuple[str, ...] = ()
    residual: bool = False

    @property
    def prunable(self) -> bool:
        """Whether the group may be narrowed."""
        return self.reason is None

    @property
    def floor(self) -> int:
        """Smallest width that the group can have."""
        return self.conv_groups if self.prunable else self.channels


@dataclasses.dataclass(frozen=True)
class Exit:
    """The exit of a region: a tensor that linear layers read.

    Args:
        name: Name of the first of these layers; exits of one name share their expand map.
        conv_groups: Number of equal runs of channels that the expand map must not mix.
    """

    name: str
    conv_groups: int


@dataclasses.dataclass(frozen=True, eq=False)
class Analysis:
    """The channels of a graph: its groups, and where they are in its tensors.

    Args:
        graph: The canonical graph.
        groups: All channel groups, in the order of their first producers.
        producers: Group name → the runs that are tied in it, all of the same length.
        layouts: Tensor → its layout, if its channels are tracked.
        exits: Tensor that a linear layer reads → its exit.
    """

    graph: Graph
    groups: tuple[ChannelGroup, ...]
    producers: Mapping[str, tuple[ChannelRun, ...]]
    layouts: Mapping[Value, Layout]
    exits: Mapping[Value, Exit]

    def heads(self) -> set[str]:
        """Returns the names of the groups whose channels are attention heads."""
        segments = (s for layout in self.layouts.values() for s in layout.segments())
        return {segment.group for segment in segments if segment.inner is not None}


def analyse(graph: Graph) -> Analysis:
    """Returns the channel groups of a canonical graph.

    The graph is traced until no rule asks for cuts or positions any more (see `ChannelTracker`),
    since making some can make others necessary. In the last pass allowed, what still does not match
    is kept whole.
    """
    cuts: dict[str, set[int]] = {}
    positions: dict[str, int] = {}
    for number in range(_MAX_PASSES):
        tracker = ChannelTracker(cuts, positions, refine=number < _MAX_PASSES - 1)
        layouts = _trace_all(graph, tracker)
        new, unfolded = tracker.new_cuts(), tracker.new_positions()
        if not new and not unfolded:
            break
        positions |= unfolded
        # A Dense of 4·4·32 units before a Reshape((4, 4, 32)) is known as 512 channels until it is
        # found to be 32 channels at 16 positions. Cuts made before that count in 512, so they are
        # dropped and asked for again in the next pass.
        counted = {**cuts, **new}.keys() - {name for name, size in unfolded.items() if size > 1}
        cuts = {name: cuts.get(name, set()) | new.get(name, set()) for name in counted}
    return _freeze(graph, {v: layout for v, layout in layouts.items() if layout}, tracker)


def _trace_all(graph: Graph, tracker: ChannelTracker) -> dict[Value, Layout | None]:
    layouts: dict[Value, Layout | None] = dict.fromkeys(graph.input_values)
    for call in graph.calls:
        inputs = [layouts[value] for value in call.inputs]
        traced = rule_for(call.unit).trace(call, inputs, tracker)
        found = [traced] if traced is None or isinstance(traced, Layout) else traced
        layouts.update(itertools.zip_longest(call.outputs, found))
    _keep_outputs_whole(graph, layouts, tracker)
    return layouts


def _keep_outputs_whole(
    graph: Graph, layouts: Mapping[Value, Layout | None], tracker: ChannelTracker
) -> None:
    """Keeps the channels of the model outputs: users rely on their shape."""
    producer = graph.producer()
    for value in graph.output_values:
        tracker.keep_whole(layouts[value], "is a model output")
        # A blend between a slice and the output would take the output's name.
        if value in producer and isinstance(rule_for(producer[value].unit), SlicingRule):
            tracker.keep_whole(layouts[producer[value].inputs[0]], "is sliced into a model output")


def _freeze(graph: Graph, layouts: dict[Value, Layout], tracker: ChannelTracker) -> Analysis:
    names = _group_names(tracker)
    layouts = {value: layout.relabel(names) for value, layout in layouts.items()}
    parts: dict[str, list[str]] = {}
    for label, run in tracker.runs.items():
        if run.unit is not None:
            parts.setdefault(names[label], []).append(label)
    consumers: dict[str, list[str]] = {name: [] for name in parts}
    # Constant channels are in layouts too, but no layer produces them: they make no group.
    for value, unit, _, _ in tracker.consumers:
        for name in layouts[value].groups() & parts.keys() if value in layouts else ():
            consumers[name].append(unit.name)
    conv_groups = _conv_groups(names, tracker)
    reasons = _reasons(names, conv_groups, tracker)
    summed = _joined_by_sums(graph, layouts)
    runs = {name: tuple(tracker.runs[label] for label in labels) for name, labels in parts.items()}
    groups = tuple(
        ChannelGroup(
            name=name,
            channels=tracker.runs[name].channels,
            # A layer is named once, even if several of its runs are in the group.
            producers=(producers := tuple(dict.fromkeys(run.source for run in runs[name]))),
            consumers=tuple(dict.fromkeys(consumers[name])),
            reason=reasons.get(name),
            conv_groups=conv_groups.get(name, 1),
            parts=() if producers == tuple(labels) else tuple(labels),
            residual=len(labels) > 1 and name in summed,
        )
        for name, labels in parts.items()
    )
    return Analysis(graph, groups, runs, layouts, _exits(tracker.consumers))


def _group_names(tracker: ChannelTracker) -> dict[str, str]:
    """Returns for every run the name of its group: its first run that a layer produces."""
    firsts: dict[str, str] = {}
    for label, run in tracker.runs.items():
        if run.unit is not None:
            firsts.setdefault(tracker.sets.find(label), label)
    roots = {label: tracker.sets.find(label) for label in tracker.runs}
    return {label: firsts.get(root, root) for label, root in roots.items()}


def _conv_groups(names: Mapping[str, str], tracker: ChannelTracker) -> dict[str, int]:
    """Returns into how many equal parts each group is divided, for those with more than one."""
    conv_groups: dict[str, int] = {}
    for label, number in tracker.conv_groups:
        name = names[label]
        # A group read by convolutions of 2 and of 3 groups must keep equally many in each sixth.
        conv_groups[name] = math.lcm(conv_groups.get(name, 1), number)
    return conv_groups


def _reasons(
    names: Mapping[str, str], conv_groups: Mapping[str, int], tracker: ChannelTracker
) -> dict[str, str]:
    """Returns why groups are kept whole: the first reason that a rule gave."""
    reasons: dict[str, str] = {}
    for label, reason in tracker.reasons:
        reasons.setdefault(names[label], reason)
    for name, number in conv_groups.items():
        if number >= tracker.runs[name].channels:
            reasons.setdefault(name, "is used in groups of one channel")
    return reasons


def _joined_by_sums(graph: Graph, layouts: Mapping[Value, Layout]) -> set[str]:
    """Returns the groups that an elementwise merge other than a gate joins."""
    # By the layouts of the inputs: a merge ties them, so that their groups are the same.
    found: set[str] = set()
    for call in graph.calls:
        is_merge = isinstance(rule_for(call.unit), Elementwise)
        if is_merge and call.unit.cls.__name__ not in _GATES:
            # In x + x nothing is joined, hence the set.
            inputs = [layouts[v].groups() for v in set(call.inputs) if v in layouts]
            found.update(*(one & other for one, other in itertools.combinations(inputs, 2)))
    return found


def _exits(consumers: list[tuple[Value, Unit, str, int]]) -> dict[Value, Exit]:
    """Returns the exit of every consumed tensor."""
    # A tensor that several kernels read has one expand map; so have all that one kernel reads, as
    # the map is multiplied into it. Both may chain: the sets are of tensors and kernels.
    sets = DisjointSets()
    for value, unit, role, _ in consumers:
        sets.add(value)
        sets.add((unit, role))
        sets.unite(value, (unit, role))
    names: dict[Any, str] = {}
    conv_groups: dict[Any, int] = {}
    for value, unit, role, number in consumers:
        root = sets.find(value)
        names.setdefault(root, unit.name if role == "input" else f"{unit.name}__{role}")
        conv_groups[root] = math.lcm(conv_groups.get(root, 1), number)
    roots = {value: sets.find(value) for value, _, _, _ in consumers}
    return {value: Exit(names[root], conv_groups[root]) for value, root in roots.items()}


def check_weights(graph: Graph) -> None:
    """Raises `ValueError` if the model is branched already or has a NaN or infinite weight."""
    if any(call.unit.cls is Alpha for call in graph.calls):
        raise ValueError(f"`model` must not be branched already. Received: '{graph.name}'")
    for unit in dict.fromkeys(call.unit for call in graph.calls):
        for array in unit.arrays():
            if not is_finite(array):
                raise ValueError(
                    f"`model` must have finite weights. Received: layer '{unit.name}' "
                    f"({unit.cls.__name__}) with NaN or infinite values"
                )


def analyse_prunable(model: keras.Model) -> Analysis:
    """Returns the channel groups of a model.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it cannot be analysed, is branched already, has weights that are not finite,
            or has nothing to prune.
    """
    graph = canonical(model)
    check_weights(graph)
    analysis = analyse(graph)
    if not any(group.prunable for group in analysis.groups):
        reasons = "".join(f"\n  {group.name}: {group.reason}" for group in analysis.groups)
        raise ValueError(f"`model` has no channel group that can be pruned:{reasons}")
    return analysis
