from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers.models import BUILDERS, build
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.analysis.costs import Costs, graph_costs, model_costs
from keras_branch_prune.analysis.groups import Analysis, ChannelGroup, analyse
from keras_branch_prune.analysis.narrowing import narrowed_graph, spread
from keras_branch_prune.graph.canonical import canonical
from keras_branch_prune.graph.rewriting import replace_units
from keras_branch_prune.planning.cost_model import CostModel


def analysis_of(name: str) -> Analysis:
    return analyse(canonical(BUILDERS[name]()))


def random_widths(
    analysis: Analysis, rng: np.random.Generator, share: float = 2 / 3
) -> dict[str, int]:
    """Possible widths of about this share of the groups that can be pruned."""
    return {
        g.name: int(rng.integers(1, g.channels // g.conv_groups + 1) * g.conv_groups)
        for g in analysis.groups
        if g.prunable and rng.random() < share
    }


def reference(analysis: Analysis, widths: dict[str, int]) -> Costs:
    """The costs of the whole narrow graph, worked out at once."""
    groups = {group.name: group for group in analysis.groups}
    kept = {name: spread(groups[name], width) for name, width in widths.items()}
    return graph_costs(narrowed_graph(analysis, kept))


@pytest.mark.parametrize("name", BUILDERS)
def test_it_equals_the_costs_of_the_narrow_graph(name):
    analysis, rng = analysis_of(name), np.random.default_rng(3)
    names = graph_costs(analysis.graph).layers
    per_mac = {layer: rng.uniform(1, 9) for layer in names}
    models = [CostModel(analysis, kind) for kind in ("params", "macs", per_mac)]
    for _ in range(8):
        widths = random_widths(analysis, rng)
        costs = reference(analysis, widths)
        weighted = sum(per_mac[layer] * macs for layer, macs in costs.layers.items())
        expected = [costs.parameters, costs.macs, pytest.approx(weighted)]
        assert [model.cost(widths) for model in models] == expected


@pytest.mark.parametrize("name", BUILDERS)
def test_a_change_is_the_difference_of_two_costs(name):
    analysis, rng = analysis_of(name), np.random.default_rng(4)
    models = [CostModel(analysis, kind) for kind in ("params", "macs")]
    for group in (group for group in analysis.groups if group.prunable):
        widths = random_widths(analysis, rng)
        changed = {**widths, group.name: group.floor}
        for model in models:
            difference = model.cost(changed) - model.cost(widths)
            assert model.change(widths, group.name, group.floor) == difference


COMPACT = ("conv_bn", "residual", "unet", "nested_twice", "depthwise", "grouped", "joined_concats")


@pytest.mark.parametrize("name", [*COMPACT, "vision_transformer"])
def test_it_equals_the_costs_of_the_compact_model(name):
    model = build(name)
    analysis = analyse(canonical(model))
    widths = random_widths(analysis, np.random.default_rng(5), share=1.0)
    channels = {group.name: group.channels for group in analysis.groups}
    ratios = {group: width / channels[group] for group, width in widths.items()}
    costs = model_costs(kbp.select(model, kbp.plan(model, width=ratios)))
    assert CostModel(analysis, "params").cost(widths) == costs.parameters
    assert CostModel(analysis, "macs").cost(widths) == costs.macs


def test_without_widths_it_is_the_whole_model():
    model = build("residual")
    analysis = analyse(canonical(model))
    costs = model_costs(model)
    assert CostModel(analysis, "params").whole == costs.parameters
    assert CostModel(analysis, "macs").whole == costs.macs


def test_weights_of_several_layers_count_once():
    inputs = keras.Input((4,))
    one, other = layers.Dense(4, name="one"), layers.Dense(4, name="other")
    x = other(layers.ReLU()(one(inputs)))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    graph = canonical(model)
    units = {call.unit.name: call.unit for call in graph.calls}
    tied = {units["other"]: units["other"].replace(weights=units["one"].weights)}
    analysis = analyse(replace_units(graph, tied))
    assert CostModel(analysis, "params").whole == (16 + 4) + (8 + 2)


def test_a_constant_is_added_and_layers_without_weight_cost_nothing():
    model = CostModel(analysis_of("mlp"), {"hidden1": 0.5}, constant=7.0)
    assert model.name == "latency"
    assert model.whole == 0.5 * 6 * 8 + 7
    assert model.cost({"hidden1": 3, "hidden2": 1}) == 0.5 * 6 * 3 + 7


def test_spread_channels_are_even_in_every_run():
    group = ChannelGroup("g", 12, (), (), conv_groups=3)
    assert spread(group, 6).tolist() == [0, 2, 4, 6, 8, 10]
    assert spread(group, 9).tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert spread(group, 12).tolist() == list(range(12))


@pytest.mark.parametrize("width", [0, 4, 15, -3])
def test_impossible_widths(width):
    group = ChannelGroup("g", 12, (), (), conv_groups=3)
    with pytest.raises(
        ValueError, match=f"'g' must be a multiple of 3 up to 12. Received: {width}"
    ):
        spread(group, width)


def test_bad_arguments():
    analysis = analysis_of("mlp")
    with pytest.raises(ValueError, match="`kind` must be 'params', 'macs' or .* Received: 'flops'"):
        CostModel(analysis, "flops")
    with pytest.raises(ValueError, match=r"`kind` must name layers that multiply.*\['hidden7'\]"):
        CostModel(analysis, {"hidden7": 1.0})
    with pytest.raises(ValueError, match=r"`widths` must name .* Received: \['head', 'other'\]"):
        CostModel(analysis, "macs").cost({"head": 1, "other": 1})
