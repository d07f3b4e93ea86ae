"""What a model would be at given widths, for its costs, without building it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from keras import tree

from keras_branch_prune.graph import Call, Graph, Unit, Value
from keras_branch_prune.groups import Analysis, ChannelGroup
from keras_branch_prune.layouts import Kept, Layout
from keras_branch_prune.linear import ChannelMatrices
from keras_branch_prune.linear_rules import LinearRule
from keras_branch_prune.rules import rule_for


def smallest(groups: Iterable[ChannelGroup]) -> dict[str, range]:
    """Returns, for every group that can be pruned, channels of the smallest width it can have."""
    return {g.name: range(0, g.channels, g.channels // g.floor) for g in groups if g.prunable}


def narrowed_graph(analysis: Analysis, kept: Kept) -> Graph:
    """Returns the graph of the compact model for its shapes only: the numbers are meaningless.

    Args:
        analysis: The channel groups of a model.
        kept: The channels that stay, by group.
    """
    narrowing = _Narrowing(analysis, kept)
    values = {value: narrowing.value(value) for value in analysis.layouts}

    def lookup(leaf: Any) -> Any:
        return values.get(leaf, leaf) if isinstance(leaf, Value) else leaf

    calls = []
    for call in analysis.graph.calls:
        structure = (call.args, dict(call.kwargs), call.outputs)
        calls.append(Call(narrowing.unit(call), *tree.map_structure(lookup, structure)))
    return dataclasses.replace(analysis.graph, calls=tuple(calls))


class _Narrowing:
    """Narrows the units and values of a graph."""

    def __init__(self, analysis: Analysis, kept: Kept):
        self._analysis = analysis
        self._kept = kept
        self._units: dict[Unit, Unit] = {}

    def value(self, value: Value) -> Value:
        """Returns a value of the narrow shape."""
        layout = self._narrowed(value)
        if layout is None:
            return value
        shape = list(value.shape)
        shape[layout.axis] = self._width(layout)
        return Value(tuple(shape), value.dtype)

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
                groups = self._analysis.exits[value].groups
                selections = layout.selections(self._kept, groups)
                expands[role] = ChannelMatrices(tuple(s.expand() for s in selections))
        if target is None:
            return rule.multiply(call.unit, expands, None) if expands else call.unit
        selections = target.selections(self._kept, rule.output_groups(call.unit))
        reduce = ChannelMatrices(tuple(s.reduce() for s in selections))
        return rule.multiply(call.unit, expands, reduce)

    def _narrowed(self, value: Value) -> Layout | None:
        layout = self._analysis.layouts.get(value)
        return layout if layout is not None and layout.is_narrowed(self._kept) else None

    def _width(self, layout: Layout) -> int:
        return len(layout.kept(self._kept))
