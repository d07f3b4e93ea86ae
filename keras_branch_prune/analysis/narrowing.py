"""Narrows the graph of a model: all shapes at once, kernels only when they are asked for."""

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
    """Returns the indices of `width` channels, evenly spread over a group.

    Of 8 channels in 2 `conv_groups`, a width of 4 takes 0, 2, 4 and 6.

    Args:
        group: The channel group.
        width: Number of channels, a multiple of the group's `conv_groups`.

    Raises:
        ValueError: If `width` is no such multiple, not positive, or larger than the group.
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
    """Returns the channels of every prunable group at its smallest width, by name."""
    return {group.name: spread(group, group.floor) for group in groups if group.prunable}


def without_numbers(graph: Graph) -> Graph:
    """Returns the graph with zeros as weights, which take no memory and no time to read."""
    units = dict.fromkeys(call.unit for call in graph.calls)
    weights = {id(weight): weight for unit in units for weight in unit.weights}
    # One array per weight, so that shared weights are still counted once; its strides are 0.
    empty = {key: np.broadcast_to(np.float32(0), weight.shape) for key, weight in weights.items()}
    emptied = {
        unit: dataclasses.replace(unit, weights=tuple(empty[id(w)] for w in unit.weights))
        for unit in units
    }
    return replace_units(graph, emptied)


def narrowed_graph(analysis: Analysis, kept: Kept) -> Graph:
    """Returns the graph of the compact model with the kept channels of all kernels as they are.

    Kernels are narrowed when they are asked for, so that counting costs is cheap.

    Args:
        analysis: The channel groups of a model; its graph may have only some of the model's calls.
        kept: The channels that stay, by group.
    """
    narrowing = Narrowing(analysis, kept)
    calls = tuple(map(narrowing.call, analysis.graph.calls))
    return dataclasses.replace(analysis.graph, calls=calls)


class Narrowing:
    """The narrow tensors and calls of a graph, each made when it is first asked for.

    A tensor has the same narrow tensor at every use, and calls that share a layer still share it.

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
        """Returns the layout of a tensor of which some channels go, else `None`."""
        layout = self._analysis.layouts.get(value)
        return layout if layout is not None and layout.is_narrowed(self._kept) else None

    def value(self, value: Value) -> Value:
        """Returns the tensor with the narrow shape; the tensor itself if no channel goes."""
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

        Linear layers are multiplied with maps that select the kept channels; nothing is fitted.
        """
        rule = rule_for(call.unit)
        if isinstance(rule, LinearRule):
            if call.unit not in self._units:
                self._units[call.unit] = self._multiply(rule, call)
            narrow = dataclasses.replace(call, unit=self._units[call.unit])
        else:
            narrow = self._narrow(rule, call)
        args, kwargs = narrow.bind(self.value)
        return Call(narrow.unit, args, kwargs, tuple(map(self.value, call.outputs)))

    def _narrow(self, rule: Rule, call: Call) -> Call:
        # The first narrow input is enough: others are tied to it, or the rule needs none.
        layout = next(filter(None, map(self.layout, call.inputs)), None)
        if layout is None:
            return call
        narrow = rule.narrow(call, layout, self._kept)
        # Calls with equal keys share their narrow layer. With weights that is one per selection of
        # channels; the config of a layer without, such as a slice, may depend on the axis too.
        key = (call.unit, layout.blocks if call.unit.weights else layout)
        return dataclasses.replace(narrow, unit=self._units.setdefault(key, narrow.unit))

    def _multiply(self, rule: LinearRule, call: Call) -> Unit:
        exits, layout = self._analysis.exits, self.layout(call.outputs[0])
        expands = {
            role: entry.expand_map(self._kept, exits[value].conv_groups)
            for role, value in rule.inputs(call).items()
            if (entry := self.layout(value)) is not None
        }
        conv_groups = rule.conv_groups(call.unit)
        reduce = layout.reduce_map(self._kept, conv_groups) if layout is not None else None
        return rule.multiply(call.unit, expands, reduce) if expands or reduce else call.unit
