from __future__ import annotations

import doctest

import keras
import numpy as np
import pytest
from helpers.models import build

import keras_branch_prune as kbp
from keras_branch_prune.graph.equivalence import draw_inputs

# The function hides the module of the same name.
EXAMPLE = doctest.DocTestFinder().find(kbp.sensitivity, "sensitivity", globs={})


def samples(model: keras.Model, number: int = 64) -> np.ndarray:
    shape = (number, *model.input_shape[1:])
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def width_of(name: str):
    return lambda model: model.get_layer(name).units


def test_errors_are_those_of_the_plans_curve():
    model = build("mlp")
    x = samples(model)
    result = kbp.sensitivity(model, calibration=x, widths=(0.5, 0.25))
    plan = kbp.plan(model, width=0.5, calibration=x)
    assert result.ratios == (0.25, 0.5)
    assert [group.name for group in result.groups] == ["hidden1", "hidden2"]
    for group, planned in zip(result.groups, plan.groups, strict=True):
        curve = dict(planned.error_curve)
        assert group.widths == (round(group.channels / 4 + 0.01), group.channels // 2)
        assert group.values == pytest.approx([curve[w] for w in group.widths], rel=1e-5)
        assert group.values[0] > group.values[1] > 0


def test_records_and_print():
    model = build("mlp")
    result = kbp.sensitivity(model, calibration=samples(model), widths=[0.5], include="hidden1")
    (record,) = result.records()
    error = record.pop("error")
    assert record == {"group": "hidden1", "channels": 8, "ratio": 0.5, "width": 4}
    header, _, _, row = str(result).splitlines()
    assert header == "Sensitivity of 'mlp' (error by width)"
    assert row.split() == ["hidden1", "8", f"{error:.3g}"]


def test_a_metric_sees_models_in_which_one_group_is_narrow():
    model = build("mlp")
    weights = [weight.numpy() for weight in model.weights]
    seen = []

    def metric(small: keras.Model) -> float:
        seen.append((width_of("hidden1")(small), width_of("hidden2")(small)))
        return seen[-1][0] * 100 + seen[-1][1]

    result = kbp.sensitivity(
        model, calibration=samples(model), widths=(0.05, 0.1, 0.5), metric=metric
    )
    assert seen[0] == (8, 6)
    assert sorted(seen[1:]) == [(1, 6), (4, 6), (8, 1), (8, 3)]
    assert [group.values for group in result.groups] == [(106, 106, 406), (801, 801, 803)]
    assert result.whole == 806
    assert result.records()[0]["metric"] == 106
    assert "(metric by width, 806 whole)" in str(result)
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.weights, strict=True))


def test_a_metric_sees_what_is_fitted():
    model = build("mlp")
    x = samples(model, 200)
    expected = model.predict(x, verbose=0)

    def error(small: keras.Model) -> float:
        return float(np.square(small.predict(x, verbose=0) - expected).mean())

    options = {"include": "hidden2", "widths": [0.5]}
    batches = (x[start : start + 50] for start in range(0, 200, 50))
    result = kbp.sensitivity(model, calibration=batches, metric=error, **options)
    assert result.whole == 0
    plan = kbp.plan(model, width=0.5, include="hidden2", calibration=x)
    assert 0 < result.groups[0].values[0] < 0.8 * error(kbp.select(model, plan))


def test_a_group_that_cannot_become_that_narrow_keeps_all():
    model = build("grouped")
    data = (draw_inputs(model, 64),)
    result = kbp.sensitivity(model, calibration=data, widths=(0.1, 0.9))
    conv_groups = {group.name: group.conv_groups for group in kbp.explain(model).groups}
    for group in result.groups:
        assert group.widths[0] >= conv_groups[group.name]
        if group.widths[1] == group.channels:
            assert group.values[1] == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"widths": ()},
            ValueError,
            r"`widths` must be .* not empty. Received: widths=\(\)",
        ),
        (
            {"widths": (0.5, 1.0)},
            ValueError,
            r"`widths` must be a number in \(0, 1\).*widths=1",
        ),
        ({"metric": "accuracy"}, TypeError, "`metric` must be a function. Received: 'accuracy'"),
        ({"include": "head"}, ValueError, "must leave a channel group"),
        ({"calibration": None}, ValueError, "`calibration` must be given"),
        ({"saliency": "taylor"}, ValueError, "`loss` must be given"),
        ({"calibration": np.zeros((3, 6))}, ValueError, "at least 6 samples, so that group 'hidd"),
    ],
)
def test_bad_arguments(options, error, message):
    model = build("mlp")
    with pytest.raises(error, match=message):
        kbp.sensitivity(model, **{"calibration": samples(model), **options})
