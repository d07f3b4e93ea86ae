from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from helpers.models import build, randomized

import keras_branch_prune as kbp
from keras_branch_prune.analysis.costs import graph_costs
from keras_branch_prune.benchmarking.layer_latency import LayerLatencies
from keras_branch_prune.graph.canonical import canonical
from keras_branch_prune.planning import planner, targets, width_search

COUNTS = {"params": kbp.count_parameters, "macs": kbp.count_macs}
HALF = {"conv1": 48, "conv2": 80, "conv3": 64, "hidden": 25}
NAMED = "`width`, `params`, `macs`, `latency` must be given"


def samples(model: keras.Model, number: int = 64, seed: int = 0) -> np.ndarray:
    shape = (number, *model.input_shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def widths(plan: kbp.PruningPlan) -> dict[str, int]:
    return {group.name: group.width for group in plan.groups}


def wide() -> keras.Model:
    """Wide enough that budgets can be met within a hundredth."""
    x = inputs = keras.Input((4, 4, 3))
    for index, filters in enumerate((96, 160, 128), 1):
        x = keras.layers.Conv2D(filters, 1, activation="relu", name=f"conv{index}")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(50, activation="relu", name="hidden")(x)
    return randomized(keras.Model(inputs, keras.layers.Dense(10, name="head")(x), name="wide"))


@pytest.mark.parametrize(
    ("options", "received"),
    [({}, "none"), ({"width": 0.5, "macs": 0.5}, "width, macs"), ({"params": 1, "latency": 1}, "")],
)
def test_there_is_one_target(options, received):
    with pytest.raises(ValueError, match=f"{NAMED}. Received: {received}"):
        kbp.plan(build("mlp"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": 0.0}, r"`params` must be a number in \(0, 1\). Received: params=0.0"),
        ({"macs": 1}, r"`macs` must be a number in \(0, 1\). Received: macs=1"),
        ({"macs": "half"}, "`macs` .* Received: macs='half'"),
        ({"params": float("nan")}, "`params` .* Received: params=nan"),
        ({"macs": True}, "`macs` .* Received: macs=True"),
        ({"latency": 1.5}, r"`latency` must be a number in \(0, 1\). Received: latency=1.5"),
        ({"latency": True}, "`latency` .* Received: latency=True"),
        (
            {"params": 0.5, "allocation": "fair"},
            "`allocation` must .* Received: allocation='fair'",
        ),
        ({"width": 0.5, "allocation": None}, "`allocation` must be 'uniform' or 'global'. .*=None"),
        (
            {"params": 0.5, "round_to": -4},
            "`round_to` must be an integer .*=-4",
        ),
        ({"width": 0.5, "floors": 0.0}, r"`floors\['conv1'\]` must be a share in \(0, 1\] .*=0.0"),
        ({"width": 0.5, "floors": 1.5}, r"`floors\['conv1'\]` must be a share .*=1.5"),
        (
            {"width": 0.5, "floors": {"conv1": 9}},
            "8 channels, or a whole number of them. .*=9",
        ),
        ({"width": 0.5, "floors": {"conv1": "all"}}, "`floors.* Received: floors.*='all'"),
        ({"width": 0.5, "ceilings": {"conv1": True}}, r"`ceilings\['conv1'\]` must .*=True"),
        ({"width": 0.5, "ceilings": np.nan}, r"`ceilings\['conv1'\]` must .*=nan"),
        ({"width": 0.5, "ceilings": {"head": 0.5}}, r"`ceilings` must name .* \['head'\]"),
        ({"macs": 0.5, "floors": {"no": 1}}, r"`floors` must name selected .* \['no'\]"),
        ({"macs": 0.5, "floors": 0.75, "ceilings": 0.5}, "must leave a width for group 'conv1'"),
        ({"macs": 1e-9}, r"`macs` must be at least 0\.\d{4}: .* Received: 1e-09"),
        ({"params": 0.5, "floors": 1.0}, "`params` must be at least 1.0000"),
    ],
)
def test_bad_arguments_are_found_before_data_is_read(options, message):
    def unread():
        pytest.fail("the data was read")
        yield

    with pytest.raises(ValueError, match=message):
        kbp.plan(build("conv_bn"), calibration=unread(), **options)


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


def test_a_plan_says_how_it_was_made():
    model = build("conv_bn")
    options = {"macs": 0.6, "floors": {"conv1": np.int64(2)}, "seed": np.int64(3)}
    plan = kbp.plan(model, calibration=samples(model), **options)
    record = dict(plan.target)
    assert kbp.PruningPlan.from_json(plan.to_json()) == plan
    assert hash(kbp.PruningPlan.from_json(plan.to_json())) == hash(plan)
    assert record["calibration"].startswith("64 samples, sha256 ")
    assert (record["saliency"], record["seed"], record["floors[conv1]"]) == ("output_error", 3, 2)
    text = str(plan)
    assert all(name in text for name in ("macs=0.6", "saliency=output_error", "64 samples"))


def test_a_plan_names_the_loss():
    model = build("conv_bn")
    data = (samples(model), np.zeros((64, 4), np.float32))
    for loss in ("mse", keras.losses.MeanSquaredError(name="mse")):
        plan = kbp.plan(model, width=0.5, saliency="taylor", calibration=data, loss=loss)
        assert ("loss", "mse") in plan.target
    assert "loss" not in dict(kbp.plan(model, width=0.5, loss="mse").target)


def test_error_curves_fall_to_zero():
    model = wide()
    plan = kbp.plan(model, width=0.5, calibration=samples(model))
    for group in plan.groups:
        points, errors = zip(*group.error_curve, strict=True)
        assert points[0] == 0
        assert points[-1] == group.channels
        assert list(points) == sorted(set(points))
        assert list(errors) == sorted(errors, reverse=True)
        assert errors[-1] == 0 < errors[0]
    assert all(not group.error_curve for group in kbp.plan(model, width=0.5).groups)


def test_the_same_data_gives_the_same_plan():
    model = build("conv_bn")
    options = {"macs": 0.5, "allocation": "global"}
    plans = [kbp.plan(model, **options, calibration=samples(model)) for _ in range(2)]
    assert plans[0] == plans[1]
    assert hash(plans[0]) == hash(plans[1])
    assert plans[0] != kbp.plan(model, **options, calibration=samples(model, seed=1))


def test_the_default_criterion():
    model = build("mlp")
    assert ("saliency", "l1") in kbp.plan(model, width=0.5).target
    plan = kbp.plan(model, width=0.5, calibration=samples(model))
    assert ("saliency", "output_error") in plan.target
    assert (
        plan.groups
        == kbp.plan(model, width=0.5, calibration=samples(model), saliency="output_error").groups
    )


def test_there_must_be_enough_samples():
    model = build("mlp")
    with pytest.raises(ValueError, match="at least 6 samples, so that group 'hidden1' .*: 5"):
        kbp.plan(model, width=0.75, calibration=samples(model, 5))
    assert kbp.plan(model, width=0.5, calibration=samples(model, 5)).groups
    # What is not narrowed is not fitted.
    kbp.plan(
        model,
        params=0.6,
        ceilings={"hidden2": 2},
        floors={"hidden1": 8},
        calibration=samples(model, 5),
    )


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (np.full((9, 6), np.nan), ValueError, "`calibration` must be finite"),
        (np.zeros((9, 5)), ValueError, r"the shape \(None, 6\) for input .* Received: \(9, 5\)"),
        (np.zeros((0, 6)), ValueError, "at least one sample"),
        (([np.zeros((9, 6))] * 2,), TypeError, r"must have the inputs \['features'\]"),
    ],
)
def test_data_that_does_not_fit(data, error, message):
    with pytest.raises(error, match=message):
        kbp.plan(build("mlp"), width=0.5, calibration=data)


def test_taylor_needs_a_loss_and_targets():
    model = build("mlp")
    x, y = samples(model), np.zeros((64, 3), np.float32)
    options = {"width": 0.5, "saliency": "taylor"}
    with pytest.raises(ValueError, match="`calibration` must be given for saliency='taylor'"):
        kbp.plan(model, **options, loss="mse")
    with pytest.raises(ValueError, match="`loss` must be given for saliency='taylor'"):
        kbp.plan(model, **options, calibration=(x, y))
    with pytest.raises(ValueError, match=r"must be \(inputs, targets\).* Received: inputs only"):
        kbp.plan(model, **options, calibration=x, loss="mse")
    assert kbp.plan(model, **options, calibration=(x, y), loss="mse").groups


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "takes either `share` or .* Received: share=None, milliseconds=None"),
        ({"share": 0.5, "milliseconds": 3.0}, "Received: share=0.5, milliseconds=3.0"),
        ({"share": 2}, r"`share` must be a number in \(0, 1\). Received: share=2"),
        ({"milliseconds": 0}, "`milliseconds` must be a positive number. Received: milliseconds=0"),
        ({"milliseconds": "5"}, "`milliseconds` must be .* Received: milliseconds='5'"),
        ({"milliseconds": float("inf")}, "`milliseconds` must be .* Received: milliseconds=inf"),
        (
            {"share": 0.5, "batch_size": 0},
            "`batch_size` must be an integer of at least 1. .*=0",
        ),
        ({"share": 0.5, "batch_size": None}, "`batch_size` must be .* Received: batch_size=None"),
        (
            {"share": 0.5, "threads": 0},
            "`threads` must be an integer of at least 1. .*=0",
        ),
    ],
)
def test_bad_latencies(options, message):
    with pytest.raises(ValueError, match=message):
        kbp.Latency(**options)


def test_automatic_rounding_takes_the_block_of_this_machine(monkeypatch):
    asked = []
    monkeypatch.setattr(planner, "block_size", lambda dtype: asked.append(dtype) or 32)
    plan = kbp.plan(wide(), macs=0.4, round_to="auto")
    assert asked == ["float32"]
    assert {width % 32 for name, width in widths(plan).items() if name != "hidden"} == {0}
    assert dict(plan.target)["round_to"] == "auto"
    assert dict(plan.target)["block_size"] == 32
    assert kbp.PruningPlan.from_json(plan.to_json()) == plan


def test_rounding_to_truth_is_refused():
    with pytest.raises(ValueError, match="`round_to` must be an integer .*: round_to=True"):
        kbp.plan(build("mlp"), width=0.5, round_to=True)
