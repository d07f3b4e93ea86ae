"""Graphs made from graphs, and the names and structures that go with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras import tree

from keras_branch_prune.graph.graph import Graph, Unit, Value


def replace_units(graph: Graph, replacement: Mapping[Unit, Unit]) -> Graph:
    """Returns the graph with some units replaced by others."""
    calls = tuple(
        dataclasses.replace(call, unit=replacement.get(call.unit, call.unit))
        for call in graph.calls
    )
    return dataclasses.replace(graph, calls=calls)


def substitute(graph: Graph, values: Mapping[Value, Value]) -> Graph:
    """Returns the graph with some tensors replaced, without the calls that nothing reads any more.

    Args:
        graph: The graph.
        values: Tensor → the tensor to read instead, which may be replaced itself: with a → b and
            b → c, what read a reads c.
    """

    def resolve(value: Value) -> Value:
        while value in values:
            value = values[value]
        return value

    outputs = tree.map_structure(resolve, graph.outputs)
    needed = set(tree.flatten(outputs))
    # From the back, so that it is known whether anything reads a call before it is looked at.
    calls = []
    for call in reversed(graph.calls):
        if needed.intersection(call.outputs):
            args, kwargs = call.bind(resolve)
            calls.append(dataclasses.replace(call, args=args, kwargs=kwargs))
            needed.update(calls[-1].inputs)
    return dataclasses.replace(graph, outputs=outputs, calls=tuple(reversed(calls)))


def pack(structure: Any, flat: Sequence[Any], replacements: Sequence[Any]) -> Any:
    """Replaces the leaves of a structure.

    Args:
        structure: Objects in any nesting.
        flat: The same objects in some order.
        replacements: What takes the place of each, in that order.

    Returns:
        The replacements, nested as `structure`.
    """
    by_id = dict(zip(map(id, flat), replacements, strict=True))
    return tree.map_structure(lambda leaf: by_id[id(leaf)], structure)


def unique_name(name: str, taken: set[str]) -> str:
    """Returns `name`, or `name_1`, `name_2`, … if it is taken, and notes it as taken."""
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate
