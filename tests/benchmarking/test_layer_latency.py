from __future__ import annotations

import keras
import pytest
from helpers.models import BUILDERS, build
from keras import layers

from keras_branch_prune.analysis.costs import graph_costs, model_costs
from keras_branch_prune.analysis.groups import analyse
from keras_branch_prune.benchmarking.layer_latency import (
    LayerLatencies,
    latency_cost,
    layer_latencies,
    measure_in_turns,
)
from keras_branch_prune.graph.canonical import canonical
from keras_branch_prune.planning.cost_model import CostModel


def twins() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    for name in ("a", "b"):
        x = layers.ReLU()(layers.Conv2D(4, 3, padding="same", name=name)(x))
    x = layers.Conv2D(4, 3, padding="same", strides=2, name="strided")(x)
    shared = layers.Dense(4, name="shared")
    return keras.Model(inputs, shared(layers.ReLU()(shared(x))))


class Clock:
    """Takes 1 ms per 1,000 MACs and 2 ms besides, and remembers what it measured."""

    def __call__(self, models, batch_size):
        self.names = [model.name for model in models.values()]
        self.batch_size = batch_size
        return {name: 2 + model_costs(model).macs / 1000 for name, model in models.items()}


def test_layers_that_are_alike_share_a_measurement():
    clock, model = Clock(), twins()
    latencies = layer_latencies(model, 5, measure=clock)
    assert clock.names[:4] == ["stem", "a", "strided", "shared"]
    assert len(clock.names) == 6
    assert latencies.batch_size == clock.batch_size == 5
    macs = model_costs(model).layers
    expected = {name: pytest.approx(count / 1000) for name, count in macs.items()}
    assert latencies.layers == expected
    assert latencies.whole == pytest.approx(sum(macs.values()) / 1000)
    assert latencies.constant == pytest.approx(0)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_layer_that_multiplies_can_be_measured_alone(name):
    model = BUILDERS[name]()
    latencies = layer_latencies(model, measure=Clock())
    macs = graph_costs(canonical(model)).layers
    assert latencies.layers == {name: pytest.approx(n / 1000) for name, n in macs.items()}


def test_a_cost_model_of_latency():
    graph = canonical(twins())
    latencies = LayerLatencies(1, dict.fromkeys(graph_costs(graph).layers, 2.0), whole=14.0)
    assert latencies.constant == 4.0
    cost_model = CostModel(analyse(graph), latency_cost(latencies, graph), latencies.constant)
    assert cost_model.whole == pytest.approx(14)
    # Half of the channels between `stem` and `a`: half of the time of both.
    assert cost_model.cost({"stem": 2}) == pytest.approx(12)


def test_what_is_measured_is_not_negative():
    latencies = layer_latencies(twins(), measure=lambda models, _: dict.fromkeys(models, 1.0))
    assert set(latencies.layers.values()) == {0.0}
    assert latencies.whole == latencies.constant == 0.0


@pytest.mark.slow
def test_this_machine_can_be_measured():
    model = build("vision_transformer")
    latencies = layer_latencies(model, batch_size=2)
    assert latencies.layers.keys() == graph_costs(canonical(model)).layers.keys()
    assert latencies.whole > 0
    assert measure_in_turns({"it": model}, 2)["it"] > 0
