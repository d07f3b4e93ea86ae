"""The graph of a model with some channels gone, made from its shapes: nothing is computed yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_branch_prune.analysis.groups import Analysis, ChannelGroup
from keras_branch_prune.channels import Kept, Layout
from keras_branch_prune.graph import Call, Graph, Unit, Value, replace_units
from keras_branch_prune.rules import LinearRule, Rule, rule_for


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
    narrowing = Narrowing(analysis, kept)
    calls = tuple(map(narrowing.call, analysis.graph.calls))
    return dataclasses.replace(analysis.graph, calls=calls)


class Narrowing:
    """The narrow tensors and calls of a graph, made when they are asked for.

    A tensor is the same at every use, and calls that share a layer still share it.

    Args:
        analysis: The channel groups of a model.
        kept: The channels that stay, by group.
    """

    def __init__(self, analysis: Analysis, kept: Kept):
        self._analysis = analysis
        self._kept = kept
        self._units: dict[Any, Unit] = {}
        self._values: dict[Value, Value] = {}

    def layout(self, value: Value) -> Layout | None:
        """Returns the layout of a tensor of which channels go, else `None`."""
        layout = self._analysis.layouts.get(value)
        return layout if layout is not None and layout.is_narrowed(self._kept) else None

    def value(self, value: Value) -> Value:
        """Returns the tensor of the narrow shape, or the tensor itself if no channel goes."""
        layout = self.layout(value)
        if layout is None:
            return value
        if value not in self._values:
            shape = list(value.shape)
            shape[layout.axis] = layout.width(self._kept)
            self._values[value] = Value(tuple(shape), value.dtype)
        return self._values[value]

    def call(self, call: Call) -> Call:
        """Returns the call of the narrow layer on the narrow tensors.

        Channels of linear layers are selected when their weights are asked for; nothing is fitted.
        """
        rule = rule_for(call.unit)
        if isinstance(rule, LinearRule):
            if call.unit not in self._units:
                self._units[call.unit] = self._multiplied(rule, call)
            narrow = dataclasses.replace(call, unit=self._units[call.unit])
        else:
            narrow = self._narrowed(rule, call)
        args, kwargs = narrow.bind(self.value)
        return Call(narrow.unit, args, kwargs, tuple(map(self.value, call.outputs)))

    def _narrowed(self, rule: Rule, call: Call) -> Call:
        layout = next(filter(None, map(self.layout, call.inputs)), None)
        if layout is None:
            return call
        narrow = rule.narrow(call, layout, self._kept)
        # Calls that share weights are tied and narrowed alike; others may differ in their layouts.
        key = call.unit if call.unit.weights else (call.unit, layout)
        return dataclasses.replace(narrow, unit=self._units.setdefault(key, narrow.unit))

    def _multiplied(self, rule: LinearRule, call: Call) -> Unit:
        target, expands = self.layout(call.outputs[0]), {}
        for role, value in rule.inputs(call).items():
            layout = self.layout(value)
            if layout is not None:
                conv_groups = self._analysis.exits[value].conv_groups
                expands[role] = layout.expand_map(self._kept, conv_groups)
        if target is None:
            return rule.multiply(call.unit, expands, None) if expands else call.unit
        reduce = target.reduce_map(self._kept, rule.conv_groups(call.unit))
        return rule.multiply(call.unit, expands, reduce)
