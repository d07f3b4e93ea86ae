"""From budgets, limits and latencies to widths, through `plan`."""

from __future__ import annotations

import warnings

import keras
import pytest
from helpers.plans import samples, wide, widths

import keras_branch_prune as kbp
from keras_branch_prune.analysis.costs import graph_costs
from keras_branch_prune.benchmarking.layer_latency import LayerLatencies
from keras_branch_prune.graph.canonical import canonical
from keras_branch_prune.planning import planner, targets, width_search

COUNTS = {"params": kbp.count_parameters, "macs": kbp.count_macs}


HALF = {"conv1": 48, "conv2": 80, "conv3": 64, "hidden": 25}


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("target", ["params", "macs"])
@pytest.mark.parametrize("share", [0.6, 0.25])
def test_budgets_are_used_and_kept(target, share, allocation):
    model = wide()
    plan = kbp.plan(model, **{target: share}, allocation=allocation)
    small = kbp.select(model, plan)
    assert 0.99 * share <= COUNTS[target](small) / COUNTS[target](model) <= share
    assert (target, share) in plan.target
    assert ("allocation", allocation) in plan.target


def test_global_budgets_take_what_moves_the_output_least():
    model = wide()
    # Of `conv2`, the output reads three channels only.
    kernel = model.get_layer("conv3").kernel.numpy()
    kernel[:, :, 3:] = 0.0
    model.get_layer("conv3").kernel.assign(kernel)
    options = {"macs": 0.4, "calibration": samples(model, 128)}
    uniform, best = (kbp.plan(model, allocation=a, **options) for a in ("uniform", "global"))
    assert widths(best)["conv2"] < 0.7 * widths(uniform)["conv2"]
    assert "conv1" not in widths(best)


@pytest.mark.parametrize("target", ["params", "macs"])
def test_a_budget_out_of_reach_names_the_floor(target):
    with pytest.raises(ValueError, match=f"`{target}` must be at least") as error:
        kbp.plan(wide(), **{target: 1e-4})
    lowest = float(str(error.value).split("at least ")[1].split(":")[0])
    plan = kbp.plan(wide(), **{target: lowest})
    assert max(widths(plan).values()) <= 3


@pytest.mark.parametrize("options", [{"width": 0.2}, {"params": 0.2}, {"macs": 0.18}])
def test_floors_hold(options):
    found = widths(kbp.plan(wide(), **options, floors={"conv2": 99, "conv3": 0.3}))
    assert found["conv2"] == 99
    assert found["conv3"] >= 39
    assert found["conv1"] < 48
    assert widths(kbp.plan(wide(), width=0.1, floors=0.5)) == HALF


@pytest.mark.parametrize("options", [{"width": 1.0}, {"params": 0.95}, {"width": {"conv2": 0.9}}])
def test_ceilings_hold(options):
    plan = kbp.plan(wide(), **options, ceilings={"conv2": 5, "conv3": 0.34})
    assert widths(plan) == {"conv2": 5, "conv3": 43}
    assert {("ceilings[conv2]", 5), ("ceilings[conv3]", 0.34)} <= set(plan.target)


@pytest.mark.parametrize(
    ("argument", "share", "channels", "expected"),
    [("floors", 0.55, 100, 55), ("ceilings", 0.29, 100, 29), ("floors", 0.251, 100, 26)],
)
def test_shares_of_channels_are_not_off_by_rounding(argument, share, channels, expected):
    inputs = keras.Input((3,))
    x = keras.layers.Dense(channels, name="a")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    width = 0.1 if argument == "floors" else 1.0
    assert widths(kbp.plan(model, width=width, **{argument: share})) == {"a": expected}


def test_limits_are_for_selected_groups():
    plan = kbp.plan(wide(), width=0.5, include="conv2", floors=0.75)
    assert widths(plan) == {"conv2": 120}
    with pytest.raises(ValueError, match=r"`floors` must name selected groups. .*\['conv1'\]"):
        kbp.plan(wide(), width=0.5, include="conv2", floors={"conv1": 2})


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_rounding_within_a_budget(allocation):
    plan = kbp.plan(wide(), macs=0.4, round_to=8, allocation=allocation)
    assert all(width % 8 == 0 for width in widths(plan).values())


@pytest.mark.parametrize("target", ["width", "params"])
def test_heads_are_not_rounded(target):
    x = inputs = keras.Input((5, 8))
    x = keras.layers.MultiHeadAttention(16, 2, value_dim=32, name="attention")(x, x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    plan = kbp.plan(model, **{target: 0.4}, round_to=16)
    assert widths(plan)["attention__query"] < 16
    assert widths(plan)["attention__value"] == 16


@pytest.fixture
def clock(monkeypatch):
    """A machine on which a model takes its MACs and an overhead of a tenth of the whole."""
    measured = []

    def latencies(model, batch_size):
        macs = graph_costs(canonical(model)).layers
        return LayerLatencies(batch_size, macs, sum(macs.values()) / 0.9)

    def share(original, small, batch_size, threads):
        measured.append((batch_size, threads))
        return 0.1 + 0.9 * kbp.count_macs(small) / kbp.count_macs(original)

    monkeypatch.setattr(width_search, "layer_latencies", latencies)
    monkeypatch.setattr(width_search, "latency_share", share)
    monkeypatch.setattr(targets, "share_of_milliseconds", lambda *_, **__: 0.3)
    monkeypatch.setattr(planner, "block_size", lambda dtype: 1)
    return measured


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize(
    "latency", [0.4, kbp.Latency(0.7, batch_size=8, threads=2), kbp.Latency(milliseconds=5.0)]
)
def test_a_latency_is_met(clock, latency, allocation):
    model = wide()
    plan = kbp.plan(model, latency=latency, allocation=allocation)
    share = 0.1 + 0.9 * kbp.count_macs(kbp.select(model, plan)) / kbp.count_macs(model)
    asked = latency if isinstance(latency, kbp.Latency) else kbp.Latency(latency)
    assert share == pytest.approx(asked.share or 0.3, rel=0.05)
    record = dict(plan.target)
    assert record["latency_measured"] == pytest.approx(share)
    assert record["latency.batch_size"] == asked.batch_size
    assert record.get("latency.share") == asked.share
    assert record["cost_share"] == pytest.approx(share, rel=0.02)
    assert set(clock) == {(asked.batch_size, asked.threads)}
    assert kbp.PruningPlan.from_json(plan.to_json()) == plan


def test_a_latency_is_planned_in_blocks_of_the_machine(monkeypatch, clock):
    monkeypatch.setattr(planner, "block_size", lambda dtype: 8)
    plan = kbp.plan(wide(), latency=0.4)
    record = dict(plan.target)
    assert (record["round_to"], record["block_size"]) == ("auto", 8)
    assert all(width % 8 == 0 for width in widths(plan).values())
    unrounded = kbp.plan(wide(), latency=0.4, round_to=1)
    assert dict(unrounded.target)["round_to"] == 1
    assert any(width % 8 for width in widths(unrounded).values())
    assert dict(kbp.plan(wide(), macs=0.4).target)["round_to"] is None


@pytest.mark.parametrize(
    ("options", "lowest"),
    [
        ({}, dict.fromkeys(HALF, 1)),
        ({"floors": 0.5}, HALF),
        # The cost of these, divided by that of the whole and multiplied again, is less.
        ({"floors": 37}, dict.fromkeys(HALF, 37)),
        ({"round_to": 16}, dict.fromkeys(HALF, 16)),
    ],
)
def test_a_latency_that_is_not_met_warns(clock, options, lowest):
    with pytest.warns(UserWarning, match="`latency` was not met: 0.* not 0.050") as caught:
        plan = kbp.plan(wide(), latency=0.05, **options)
    assert caught[0].filename == __file__
    assert widths(plan) == lowest


def test_floors_that_leave_nothing_are_found_before_a_latency_is_looked_for(clock):
    message = "`latency` must be at least 1.0000: .* Received: 0.999999999"
    with pytest.raises(ValueError, match=message):
        kbp.plan(wide(), latency=0.5, floors=1.0)
    assert clock == []


def test_a_latency_that_nothing_changes_warns(monkeypatch, clock):
    monkeypatch.setattr(width_search, "latency_share", lambda *_, **__: 1.0)
    with pytest.warns(UserWarning, match="was not met: 1.000 "):
        kbp.plan(wide(), latency=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kbp.plan(wide(), macs=0.5)
