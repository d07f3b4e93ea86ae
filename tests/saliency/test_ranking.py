from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers.models import build
from keras import layers

from keras_branch_prune.analysis.groups import analyse
from keras_branch_prune.graph.canonical import canonical
from keras_branch_prune.graph.equivalence import draw_inputs
from keras_branch_prune.saliency.criteria import SALIENCIES
from keras_branch_prune.saliency.ranking import Ranking, rank


def ranked(model: keras.Model, saliency: str = "l1", calibration=None, **options) -> Ranking:
    analysis = analyse(canonical(model))
    groups = [group for group in analysis.groups if group.prunable]
    return rank(analysis, groups, saliency, calibration, **options)


def inputs_of(model: keras.Model, samples: int = 40) -> tuple:
    """Inputs without targets."""
    return (draw_inputs(model, samples),)


def with_norms(**gammas) -> keras.Model:
    """Dense layers side by side, each normalized with scales that are given."""
    inputs = keras.Input((4,))
    parts = [layers.Dense(len(gamma), name=name)(inputs) for name, gamma in gammas.items()]
    x = layers.BatchNormalization(name="norm")(layers.Concatenate()(parts))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    model.get_layer("norm").gamma.assign(np.concatenate(list(gammas.values())))
    return model


def test_the_best_channels_come_first():
    model = build("mlp")
    ranking = ranked(model)
    norms = np.abs(model.get_layer("hidden1").kernel.numpy()).sum(axis=0)
    order = ranking.orders["hidden1"]
    assert order.tolist() == np.argsort(-norms).tolist()
    assert ranking.kept("hidden1", 3) == tuple(sorted(order[:3].tolist()))
    assert ranking.features is None


def test_errors_without_data_are_the_scores_lost():
    model = build("mlp")
    norms = np.abs(model.get_layer("hidden2").kernel.numpy()).sum(axis=0).astype(np.float64)
    squares = np.sort(norms**2)[::-1]
    kept = np.cumsum(squares)
    errors = ranked(model).errors["hidden2"]
    assert errors[1:] == pytest.approx((kept[-1] - kept) / kept)
    assert errors[0] > errors[1]


@pytest.mark.parametrize("saliency", sorted(set(SALIENCIES) - {"batch_norm"}))
@pytest.mark.parametrize("name", ["grouped", "vision_transformer", "slices"])
def test_errors_never_rise(name, saliency):
    model = build(name)
    loss = None
    calibration = inputs_of(model)
    if SALIENCIES[saliency].needs == "loss":
        calibration, loss = (*calibration, np.zeros((40, *model.output_shape[1:]))), "mse"
    for data in (calibration, None):
        if data is None and SALIENCIES[saliency].needs != "weights":
            continue
        ranking = ranked(model, saliency, data, loss=loss)
        for group, errors in ranking.errors.items():
            assert errors.shape == (len(ranking.orders[group]) + 1,)
            assert np.isfinite(errors).all()
            assert np.all(np.diff(errors) <= 0)
            assert errors[-1] == 0
            assert sorted(ranking.orders[group]) == list(range(len(errors) - 1))


@pytest.mark.parametrize("saliency", ["l1", "output_error"])
def test_every_run_of_a_grouped_convolution_keeps_as_many(saliency):
    model = build("grouped")
    analysis = analyse(canonical(model))
    ranking = ranked(model, saliency, inputs_of(model) if saliency == "output_error" else None)
    parted = [group for group in analysis.groups if group.prunable and group.conv_groups > 1]
    assert parted
    for group in parted:
        size = group.channels // group.conv_groups
        for width in range(group.conv_groups, group.channels + 1, group.conv_groups):
            runs = np.array(ranking.kept(group.name, width)) // size
            counts = np.bincount(runs, minlength=group.conv_groups)
            assert counts.tolist() == [width // group.conv_groups] * group.conv_groups


def test_output_error_is_never_worse_than_energy_at_one_channel():
    model = build("conv_bn")
    x = inputs_of(model)
    greedy, energy = (ranked(model, name, x).errors for name in ("output_error", "energy"))
    for name in greedy:
        assert greedy[name][0] == energy[name][0]
        assert greedy[name][1] <= energy[name][1] * (1 + 1e-6)


def test_scales_are_those_of_the_groups_own_channels():
    model = with_norms(a=[1.0, -4.0, 2.0], b=[5.0, 6.0])
    ranking = ranked(model, "batch_norm")
    assert ranking.orders["a"].tolist() == [1, 2, 0]
    assert ranking.orders["b"].tolist() == [1, 0]


def test_scales_of_several_positions_are_averaged():
    x = inputs = keras.Input((2, 3))
    x = layers.Flatten()(layers.Conv1D(3, 1, name="a")(x))
    x = layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    model.get_layer("norm").gamma.assign([1.0, 0.0, 3.0, 1.0, 4.0, -3.0])
    assert ranked(model, "batch_norm").orders["a"].tolist() == [2, 1, 0]


def test_scales_along_another_axis_are_none_of_the_channels():
    x = inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 1, name="a")(x)
    x = layers.BatchNormalization(axis=1, name="rows")(layers.Conv2D(6, 1, name="b")(x))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    with pytest.raises(ValueError, match="a group without, produced by 'a'"):
        ranked(model, "batch_norm")


def test_a_norm_without_a_scale_is_none():
    inputs = keras.Input((4,))
    x = layers.BatchNormalization(scale=False)(layers.Dense(5, name="a")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.raises(ValueError, match="a group without, produced by 'a'"):
        ranked(model, "batch_norm")


@pytest.mark.parametrize(
    ("saliency", "data", "message"),
    [
        ("magic", None, "`saliency` must be 'batch_norm', .* Received: saliency='magic'"),
        ("output_error", None, "`calibration` must be given for saliency='output_error'"),
        ("taylor", np.zeros((8, 6)), "`loss` must be given for saliency='taylor'. Received: None"),
    ],
)
def test_what_a_criterion_needs(saliency, data, message):
    with pytest.raises(ValueError, match=message):
        ranked(build("mlp"), saliency, data)


def test_there_must_be_samples_to_fit_from():
    model = build("mlp")
    ranking = ranked(model, "energy", inputs_of(model, 4))
    ranking.check_samples({"hidden1": 4})
    with pytest.raises(ValueError, match="at least 5 samples.* 'hidden1' .* 5 .* Received: 4"):
        ranking.check_samples({"hidden1": 5})
    ranked(model).check_samples({"hidden1": 8})
    image = build("conv_bn")
    # Every sample has 4 × 4 positions for `conv1`, and 2 × 2 for `conv2`.
    ranking = ranked(image, "energy", inputs_of(image, 1))
    ranking.check_samples({"conv1": 8, "conv2": 4})
    with pytest.raises(ValueError, match="at least 2 samples.* 'conv2' .* 5 .* Received: 1"):
        ranking.check_samples({"conv2": 5})


def test_a_group_that_nobody_reads_needs_no_samples():
    model = build("slices")
    ranking = ranked(model, "energy", inputs_of(model, 4))
    ranking.check_samples({"on": 2})
