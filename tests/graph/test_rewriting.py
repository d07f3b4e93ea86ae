from __future__ import annotations

import pytest
from helpers.models import build

from keras_branch_prune.graph.canonical import canonical
from keras_branch_prune.graph.rewriting import pack, replace_units, substitute, unique_name


def names(graph):
    return [call.unit.name for call in graph.calls]


def test_units_are_replaced_where_they_are_called():
    graph = canonical(build("mlp"))
    unit = graph.calls[0].unit
    renamed = replace_units(graph, {unit: unit.replace(name="other")})
    assert names(renamed) == ["other", *names(graph)[1:]]
    assert renamed.calls[0].outputs == graph.calls[0].outputs


def test_what_nothing_reads_any_more_goes():
    graph = canonical(build("mlp"))
    outputs = {call.unit.name: call.outputs[0] for call in graph.calls}
    shortcut = {outputs["hidden2__activation"]: outputs["hidden1__activation"]}
    assert names(substitute(graph, shortcut)) == ["hidden1", "hidden1__activation", "head"]
    # A chain of replacements is followed to its end.
    chain = {**shortcut, outputs["hidden1__activation"]: outputs["hidden1"]}
    assert names(substitute(graph, chain)) == ["hidden1", "head"]
    assert names(substitute(graph, {})) == names(graph)


def test_leaves_are_replaced_by_identity():
    a, b = [object() for _ in range(2)]
    assert pack({"x": (a, b), "y": a}, [b, a], ["B", "A"]) == {"x": ("A", "B"), "y": "A"}
    with pytest.raises(ValueError, match="zip"):
        pack([a, b], [a, b], ["A"])


def test_names_are_counted_on():
    taken = {"a", "a_1"}
    assert [unique_name(name, taken) for name in ("a", "a", "b", "b")] == ["a_2", "a_3", "b", "b_1"]
    assert taken == {"a", "a_1", "a_2", "a_3", "b", "b_1"}
