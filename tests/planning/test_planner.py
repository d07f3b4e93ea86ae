from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers.models import build
from helpers.plans import samples, wide, widths

import keras_branch_prune as kbp
from keras_branch_prune.planning import planner


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
