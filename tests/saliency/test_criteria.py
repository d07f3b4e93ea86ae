from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers.models import build
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.channels.tracker import ChannelRun
from keras_branch_prune.graph.graph import Unit
from keras_branch_prune.saliency.criteria import (
    SALIENCIES,
    GroupData,
    channel_scores,
    order_by_score,
    register_saliency,
)
from keras_branch_prune.saliency.features import GroupFeatures
from keras_branch_prune.saliency.pivoting import pivot_channels

KERNELS = (
    np.array([[3.0, 0.0, -1.0, 0.0], [4.0, 1.0, 1.0, 0.0]]),
    np.array([[0.0, 2.0, 1.0, 0.0]]),
)


@pytest.fixture
def table():
    """A table of criteria that forgets what a test registers."""
    before = dict(SALIENCIES)
    yield
    SALIENCIES.clear()
    SALIENCIES.update(before)


def data(*kernels: np.ndarray, gammas=(), products=None, sensitivity=None) -> GroupData:
    runs = []
    for index, kernel in enumerate(kernels or KERNELS):
        unit = Unit(f"dense{index}", layers.Dense, {"use_bias": False}, (kernel,))
        runs.append(ChannelRun(unit.name, unit, 0, kernel.shape[1]))
    channels = runs[0].channels
    features = None
    if products is not None:
        seen = np.eye(channels) if sensitivity is None else sensitivity
        features = GroupFeatures(products, seen, np.arange(channels) * 1.0, rows=9)
    return GroupData(channels, runs, gammas, np.random.default_rng(0), features)


def test_kernels_of_channels_at_several_positions():
    kernel = np.arange(24.0).reshape(2, 12)
    unit = Unit("dense", layers.Dense, {"use_bias": False}, (kernel,))
    # Two positions of six channels, of which the run has three.
    run = ChannelRun("dense", unit, 1, 4, positions=2)
    (found,) = GroupData(3, [run], (), np.random.default_rng(0)).kernels()
    assert found.tolist() == [[1, 2, 3], [7, 8, 9], [13, 14, 15], [19, 20, 21]]


def gram(channels: int, rows: int, seed: int = 0) -> np.ndarray:
    """A random matrix of products, of at most `rows` independent channels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, channels)) * rng.uniform(0.2, 2.0, size=channels)
    return x.T @ x / rows


def residual(products: np.ndarray, kept: np.ndarray, sensitivity: np.ndarray) -> float:
    """What is left after a least-squares fit, as the formula says."""
    if not len(kept):
        return float(np.trace(sensitivity @ products))
    fit = np.linalg.pinv(products[np.ix_(kept, kept)], rcond=1e-9)
    left = products - products[:, kept] @ fit @ products[kept]
    return float(np.trace(sensitivity @ left))


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("l1", [3.5, 1.5, 1.5, 0.0]),
        ("l2", [2.5, 1.5, (1 + 2**0.5) / 2, 0.0]),
    ],
)
def test_norms_are_averaged_over_producers(name, scores):
    assert channel_scores(name, data()) == pytest.approx(scores)


def test_norms_of_a_run_are_those_of_its_channels():
    unit = Unit("dense", layers.Dense, {"use_bias": False}, (KERNELS[0],))
    group = GroupData(2, [ChannelRun("dense", unit, 1, 3)], (), np.random.default_rng(0))
    assert channel_scores("l1", group).tolist() == [1.0, 2.0]


def test_fpgm_adds_distances():
    points = np.array([[0.0, 0.0, 3.0], [0.0, 4.0, 0.0]])
    assert channel_scores("fpgm", data(points)) == pytest.approx([7.0, 9.0, 8.0])
    twice = channel_scores("fpgm", data(points, 0 * points))
    assert twice == pytest.approx([3.5, 4.5, 4.0])


def test_batch_norm_takes_the_scales():
    gammas = [np.array([1.0, -2.0, 0.0, 3.0]), np.array([1.0, 0.0, 0.0, -1.0])]
    assert channel_scores("batch_norm", data(gammas=gammas)).tolist() == [1.0, 1.0, 0.0, 2.0]
    with pytest.raises(ValueError, match="needs BatchNorm.* Received: .* produced by 'dense0'"):
        channel_scores("batch_norm", data())


def test_energy_and_taylor_are_read_off():
    group = data(products=np.diag([2.0, 0.0, 1.0, 3.0]))
    assert channel_scores("energy", group).tolist() == [2.0, 0.0, 1.0, 3.0]
    assert channel_scores("taylor", group).tolist() == [0.0, 1.0, 2.0, 3.0]


def test_random_scores_go_on():
    group = data()
    assert not np.array_equal(channel_scores("random", group), channel_scores("random", group))
    assert np.array_equal(channel_scores("random", data()), channel_scores("random", data()))


def test_interpolative_takes_out_what_is_known():
    # Channel 1 is large, and channel 0 but a part of it.
    x = np.array([[1.9, 2.0, 0.0, 0.5], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.4]])
    scores = channel_scores("interpolative", data(products=x.T @ x))
    assert order_by_score(scores).tolist() == [1, 2, 3, 0]


def test_output_error_keeps_what_the_output_needs():
    products = np.diag([4.0, 3.0, 2.0, 1.0])
    group = data(products=products, sensitivity=np.diag([0.1, 1.0, 0.0, 5.0]))
    assert order_by_score(channel_scores("output_error", group)).tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rows", [40, 12, 5])
def test_costs_are_least_squares_residuals(seed, rows):
    products, sensitivity = gram(12, rows, seed), gram(12, 4, seed + 100)
    given = np.random.default_rng(seed).permutation(12)
    for options in ({}, {"sensitivity": sensitivity}, {"sensitivity": sensitivity, "order": given}):
        order, costs = pivot_channels(products, **options)
        weights = options.get("sensitivity", np.eye(12))
        expected = [residual(products, order[:k], weights) for k in range(13)]
        assert costs == pytest.approx(expected, abs=1e-4 * expected[0])
        assert sorted(order) == list(range(12))
        assert np.all(np.diff(costs) <= 0)
        assert costs[-1] == 0
    assert order.tolist() == given.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_the_greedy_step_is_the_best_one(seed):
    products, sensitivity = gram(10, 30, seed), gram(10, 3, seed + 50)
    order, _ = pivot_channels(products, sensitivity)
    for step in range(6):
        others = order[step:]
        left = [residual(products, np.append(order[:step], c), sensitivity) for c in others]
        assert left[0] == pytest.approx(min(left), abs=1e-5 * np.trace(sensitivity @ products))


@pytest.mark.parametrize("name", ["interpolative", "output_error"])
def test_dead_and_dependent_channels_come_last(name):
    x = np.random.default_rng(3).normal(size=(50, 8))
    x[:, 2] = 0.0
    x[:, 5] = x[:, 0] - 2 * x[:, 7]
    sensitivity = gram(8, 20, 1)
    scores = channel_scores(name, data(x, products=x.T @ x / 50, sensitivity=sensitivity))
    order = order_by_score(scores).tolist()
    assert 2 in order[-2:]
    assert {0, 5, 7} & set(order[-2:])


def test_dead_channels_come_last_even_if_the_output_needs_none():
    order, _ = pivot_channels(np.diag([0.0, 1.0, 1.0, 1.0]), np.zeros((4, 4)))
    assert order.tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("sensitivity", [None, np.zeros((4, 4)), np.eye(4)])
def test_features_that_are_all_zero(sensitivity):
    order, costs = pivot_channels(np.zeros((4, 4)), sensitivity)
    assert order.tolist() == [0, 1, 2, 3]
    assert not costs.any()


@pytest.mark.parametrize(("scale", "moves"), [(1e-12, 1.0), (1e12, 1.0), (1.0, 1e-50)])
def test_the_scale_of_features_and_of_outputs_does_not_matter(scale, moves):
    products, sensitivity = gram(9, 20), gram(9, 4, 1)
    order, costs = pivot_channels(products, sensitivity)
    scaled, scaled_costs = pivot_channels(scale * products, moves * sensitivity / scale)
    assert scaled.tolist() == order.tolist()
    assert scaled_costs / moves == pytest.approx(costs, rel=1e-3, abs=1e-5 * costs[0])


def test_runs_take_turns():
    scores = np.array([1.0, 5.0, 3.0, 9.0, 8.0, 7.0])
    assert order_by_score(scores).tolist() == [3, 4, 5, 1, 2, 0]
    assert order_by_score(scores, 2).tolist() == [1, 3, 2, 4, 0, 5]
    assert order_by_score(np.zeros(4), 2).tolist() == [0, 2, 1, 3]


def test_a_criterion_of_ones_own_is_used(table):
    register_saliency("last", lambda group: np.arange(group.channels))
    plan = kbp.plan(build("conv_bn"), width=0.5, saliency="last")
    assert plan.kept == {"conv1": (4, 5, 6, 7), "conv2": (3, 4, 5)}
    assert ("saliency", "last") in plan.target
    register_saliency("last", lambda group: np.arange(group.channels) < 3)
    assert kbp.plan(build("conv_bn"), width=0.5, saliency="last").kept["conv2"] == (0, 1, 2)


def test_a_criterion_of_ones_own_sees_features(table):
    def peak(group: kbp.GroupData) -> np.ndarray:
        return np.diag(group.features.products) == np.diag(group.features.products).max()

    register_saliency("peak", peak, needs="calibration")
    model, x = build("mlp"), np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    plan = kbp.plan(model, width={"hidden1": 1 / 8}, saliency="peak", calibration=x)
    squares = np.square(keras.Model(model.inputs[0], model.layers[1].output)(x).numpy())
    assert plan.kept == {"hidden1": (int(squares.mean(axis=0).argmax()),)}
    with pytest.raises(ValueError, match="`calibration` must be given for saliency='peak'"):
        kbp.plan(model, width=0.5, saliency="peak")


def test_bad_criteria_are_not_registered(table):
    with pytest.raises(TypeError, match="`score` must be a function. Received: 'l1'"):
        register_saliency("mine", "l1")
    with pytest.raises(ValueError, match="`needs` must be 'weights', .* Received: needs='luck'"):
        register_saliency("mine", lambda group: None, needs="luck")
    with pytest.raises(ValueError, match="`saliency` must be .*'l1'.* Received: saliency='mine'"):
        kbp.plan(build("mlp"), width=0.5, saliency="mine")


@pytest.mark.parametrize(
    "scores", [np.ones(3), np.ones((6, 1)), 1.0, [1, 2, 3, 4, 5, np.nan], [np.inf] * 6]
)
def test_scores_are_checked(table, scores):
    register_saliency("broken", lambda group: scores)
    with pytest.raises(ValueError, match=r"criterion 'broken' must .* shape \(6,\). Received"):
        kbp.plan(build("mlp"), width={"hidden2": 0.5}, include="hidden2", saliency="broken")
