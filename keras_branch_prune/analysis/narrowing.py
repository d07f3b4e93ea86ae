"""The graph of a model with some channels gone, made from its shapes: nothing is computed yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from keras_branch_prune.analysis.groups import Analysis, ChannelGroup
from keras_branch_prune.channels import Kept, Layout
from keras_branch_prune.graph import Call, Graph, Unit, Value, replace_units
from keras_branch_prune.rules import LinearRule, SlicingRule, rule_for


def spread(group: ChannelGroup, width: int) -> np.ndarray:
    """Returns the indices of `width` channels that are evenly spread over a group.

    Args:
        group: The channel group.
        width: Number of channels, a multiple of the group's `conv_groups`.

    Raises:
        ValueError: If it is not, or larger than the group.
    """
    if width % group.conv_groups or not 0 < width <= group.channels:
        raise ValueError(
            f"The width of group '{group.name}' must be a multiple of {group.conv_groups} up to "
            f"{group.channels}. Received: {width}"
        )
    size, number = group.channels // group.conv_groups, width // group.conv_groups
    starts = np.arange(0, group.channels, size)
    return (starts[:, None] + np.arange(number) * size // number).ravel()


def smallest(groups: Iterable[ChannelGroup]) -> dict[str, np.ndarray]:
    """Returns, for every group that can be pruned, channels of the smallest width it can have."""
    return {group.name: spread(group, group.floor) for group in groups if group.prunable}


def without_numbers(graph: Graph) -> Graph:
    """Returns the graph with weights that have a shape, but take no memory and no time to read."""
    weights = {id(weight): weight for call in graph.calls for weight in call.unit.weights}
    empty = {key: np.broadcast_to(np.float32(0), weight.shape) for key, weight in weights.items()}
    units = dict.fromkeys(call.unit for call in graph.calls)
    return replace_units(
        graph,
        {
            unit: dataclasses.replace(unit, weights=tuple(empty[id(w)] for w in unit.weights))
            for unit in units
        },
    )


def narrowed_graph(analysis: Analysis, kept: Kept) -> Graph:
    """Returns the graph of the compact model that has the channels that stay, and fits nothing.

    Kernels are selected when they are asked for, so that shapes alone cost little.

    Args:
        analysis: The channel groups of a model; its graph may be a part of the model's.
        kept: The channels that stay, by group.
    """
    narrowing = _Narrowing(analysis, kept)
    calls = []
    for call in map(narrowing.parts, analysis.graph.calls):
        outputs = tuple(map(narrowing.value, call.outputs))
        calls.append(Call(narrowing.unit(call), *call.bind(narrowing.value), outputs))
    return dataclasses.replace(analysis.graph, calls=tuple(calls))


class _Narrowing:
    """Narrows the units and values of a graph."""

    def __init__(self, analysis: Analysis, kept: Kept):
        self._analysis = analysis
        self._kept = kept
        self._units: dict[Unit, Unit] = {}
        self._values: dict[Value, Value] = {}

    def value(self, value: Value) -> Value:
        """Returns a value of the narrow shape, the same one at every use."""
        layout = self._narrowed(value)
        if layout is None:
            return value
        if value not in self._values:
            shape = list(value.shape)
            shape[layout.axis] = layout.width(self._kept)
            self._values[value] = Value(tuple(shape), value.dtype)
        return self._values[value]

    def parts(self, call: Call) -> Call:
        """Returns the call; one that takes parts of a tensor takes them where they are then."""
        rule = rule_for(call.unit)
        if not isinstance(rule, SlicingRule):
            return call
        layout = self._narrowed(call.inputs[0])
        return rule.narrow_call(call, layout, self._kept) if layout else call

    def unit(self, call: Call) -> Unit:
        """Returns the narrow unit of a call, the same one for all calls of a unit."""
        if call.unit not in self._units:
            rule = rule_for(call.unit)
            if isinstance(rule, LinearRule):
                unit = self._multiplied(rule, call)
            else:
                layout = next(filter(None, map(self._narrowed, call.inputs)), None)
                unit = rule.narrow(call.unit, layout, self._kept) if layout else call.unit
            self._units[call.unit] = unit
        return self._units[call.unit]

    def _multiplied(self, rule: LinearRule, call: Call) -> Unit:
        target, expands = self._narrowed(call.outputs[0]), {}
        for role, value in rule.inputs(call).items():
            layout = self._narrowed(value)
            if layout is not None:
                conv_groups = self._analysis.exits[value].conv_groups
                expands[role] = layout.expand_map(self._kept, conv_groups)
        if target is None:
            return rule.multiply(call.unit, expands, None) if expands else call.unit
        reduce = target.reduce_map(self._kept, rule.conv_groups(call.unit))
        return rule.multiply(call.unit, expands, reduce)

    def _narrowed(self, value: Value) -> Layout | None:
        layout = self._analysis.layouts.get(value)
        return layout if layout is not None and layout.is_narrowed(self._kept) else None
