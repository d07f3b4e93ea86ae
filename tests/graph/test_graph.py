"""Graphs, calls and units as data, on a graph of three additions."""

from __future__ import annotations

import numpy as np
import pytest
from keras import layers

from keras_branch_prune.graph.graph import Call, Deferred, Graph, Unit, Value, as_array, is_finite

A, B, C, D = (Value((None, 2), "float32") for _ in range(4))


def addition(name, one, other, output):
    return Call(Unit(name, layers.Add, {"name": name}), ([one, other],), {"scale": 1}, (output,))


def graph():
    calls = (addition("first", A, A, B), addition("second", A, B, C), addition("unread", C, A, D))
    unit = Unit("input", layers.InputLayer, {"name": "input"})
    return Graph("sums", (unit,), (A,), A, {"sum": C, "same": A}, calls)


def test_a_graph_runs_on_anything():
    seen = []

    def add(call, numbers, scale):
        seen.append(call.unit.name)
        return scale * sum(numbers)

    assert graph().run([5], add) == {"sum": 15, "same": 5}
    assert seen == ["first", "second", "unread"]


def test_who_reads_and_who_makes():
    model = graph()
    first, second, unread = model.calls
    assert model.consumers() == {A: [first, second, unread], B: [second], C: [unread]}
    assert model.producer() == {B: first, C: second, D: unread}
    assert model.output_values == (A, C)
    assert first.inputs == (A, A)


def test_arguments_are_bound_in_their_structure():
    call = Call(Unit("x", layers.Add, {}), ([A, 3],), {"other": {"b": B}}, (C,))
    args, kwargs = call.bind({A: "a", B: "b"}.__getitem__)
    assert (args, kwargs) == ((["a", 3],), {"other": {"b": "b"}})


def test_a_replaced_unit_keeps_the_rest_and_its_name_in_the_config():
    unit = Unit("dense", layers.Dense, {"name": "dense", "units": 3, "use_bias": True})
    other = unit.replace(name="narrow", config={"units": 2})
    assert other.config == {"name": "narrow", "units": 2, "use_bias": True}
    assert unit.config["units"] == 3
    call = Call(unit, (A,), {}, (B,)).replace_unit(weights=(np.ones(2),))
    assert call.outputs == (B,)
    assert [array.tolist() for array in call.unit.arrays()] == [[1, 1]]
    assert other.build().units == 2


def test_a_unit_that_cannot_be_built_is_named():
    with pytest.raises(ValueError, match=r"Layer 'd' of class Dense cannot be rebuilt"):
        Unit("d", layers.Dense, {"nonsense": 1}).build()


def test_a_deferred_array_is_made_each_time_it_is_asked_for():
    made = []
    deferred = Deferred((2,), lambda: made.append(1) or np.zeros(2))
    assert made == []
    for _ in range(2):
        assert as_array(deferred).shape == deferred.shape
    assert made == [1, 1]


@pytest.mark.parametrize(
    ("array", "finite"),
    [(np.arange(3), True), (np.ones(2), True), (np.array([0, np.nan]), False), (np.inf, False)],
)
def test_finite(array, finite):
    assert is_finite(np.asarray(array)) == finite
