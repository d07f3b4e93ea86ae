from __future__ import annotations

import numpy as np
import pytest

from keras_branch_prune.branching import least_squares
from keras_branch_prune.branching.least_squares import ColumnStatistics, Moments

ROWS = 500


def problem(mean=0.0, dtype=np.float64, rows=ROWS, noise=0.1):
    """Rows of correlated inputs and noisy linear targets with an offset, and a start."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6)) @ rng.normal(size=(6, 6)) + mean
    y = x @ rng.normal(size=(6, 4)) + 3.0 + noise * rng.normal(size=(rows, 4))
    return x.astype(dtype), y.astype(dtype), rng.normal(size=(6, 4))


@pytest.fixture(autouse=True, params=[1, 200])
def rows_at_a_time(request, monkeypatch):
    monkeypatch.setattr(least_squares, "_ROWS_AT_ONCE", request.param)


def moments_of(x, y, batches=3):
    moments = Moments(x.shape[1], y.shape[1])
    for part in zip(np.array_split(x, batches), np.array_split(y, batches), strict=True):
        moments.add(*part)
    return moments


def reference(x, y, ridge, start, intercept):
    """The same fit by a least-squares solver, with one row of penalty per input."""
    means = x.mean(axis=0) * intercept, y.mean(axis=0) * intercept
    x, y = x - means[0], y - means[1]
    penalty = np.sqrt(ridge * np.square(x).sum() / x.shape[1]) * np.eye(x.shape[1])
    rows = np.concatenate([x, penalty]), np.concatenate([y, penalty @ start])
    matrix = np.linalg.lstsq(*rows, rcond=None)[0]
    return matrix, means[1] - means[0] @ matrix


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 1e-9, 1e-3, 10.0])
def test_ridge_least_squares_is_that_of_numpy(ridge, intercept):
    x, y, start = problem(mean=2.0)
    fit = moments_of(x, y).solve(ridge, start, intercept)
    matrix, bias = reference(x, y, ridge, start, intercept)
    assert np.allclose(fit.matrix, matrix, atol=1e-9)
    assert np.allclose(fit.bias, bias, atol=1e-8) if intercept else fit.bias is None
    residual = y - x @ matrix - (bias if intercept else 0.0)
    assert fit.error == pytest.approx(np.square(residual).sum(), rel=1e-9)
    assert fit.energy == pytest.approx(np.square(y).sum(), rel=1e-12)


@pytest.mark.parametrize("batches", [1, 7])
def test_a_large_mean_costs_no_precision(batches):
    x, y, start = problem(mean=1000.0, dtype=np.float32)
    fit = moments_of(x, y, batches).solve(1e-3, start, intercept=True)
    matrix, bias = reference(*(array.astype(np.float64) for array in (x, y)), 1e-3, start, True)
    assert np.allclose(fit.matrix, matrix, atol=1e-3)
    assert np.allclose(fit.bias, bias, rtol=1e-3)


def test_it_never_fits_worse_than_the_start():
    x, y, start = problem()
    before = np.square(y - x @ start).sum()
    errors = [moments_of(x, y).solve(ridge, start).error for ridge in (1e-3, 1.0, 1e3, 1e9)]
    assert sorted(errors) == errors
    assert errors[-1] <= before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_dead_and_equal_channels(ridge, dtype):
    x, y, start = problem(dtype=dtype, noise=0.0)
    y -= y.mean(axis=0) - (x.mean(axis=0) @ np.ones((6, 4))).astype(dtype)
    x[:, 1] = 0.0
    x[:, 3] = x[:, 2]
    fit = moments_of(x, y).solve(ridge, start, intercept=True)
    # Nothing is known about a dead channel, nor about how equal ones share their work.
    assert np.allclose(fit.matrix[1], start[1])
    difference = fit.matrix - start
    assert np.allclose(difference[2], difference[3], atol=1e-3)
    assert np.abs(fit.matrix).max() < 100


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_a_single_row(ridge, intercept):
    x, y, start = problem(rows=1)
    fit = moments_of(x, y, batches=1).solve(ridge, start, intercept)
    bias = fit.bias if intercept else 0.0
    assert np.allclose(x @ fit.matrix + bias, y, rtol=1e-2 if ridge else 1e-9)
    if intercept:
        assert np.allclose(fit.matrix, start)


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_inputs_that_are_all_zero(ridge):
    _, y, start = problem(rows=5)
    fit = moments_of(np.zeros((5, 6)), y).solve(ridge, start)
    assert np.array_equal(fit.matrix, start)
    assert fit.error == pytest.approx(fit.energy)


def test_the_arrays_are_not_changed():
    x, y, _ = problem()
    copies = x.copy(), y.copy()
    moments_of(x, y)
    statistics = ColumnStatistics(6)
    statistics.add(x)
    assert np.array_equal(x, copies[0])
    assert np.array_equal(y, copies[1])


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_statistics_of_columns(mean):
    rows = problem(mean, np.float32)[0]
    statistics = ColumnStatistics(6)
    for part in np.array_split(rows, 3):
        statistics.add(part)
    exact = rows.astype(np.float64)
    assert statistics.rows == ROWS
    assert np.allclose(statistics.mean(), exact.mean(axis=0), rtol=1e-6)
    assert np.allclose(statistics.variance(), exact.var(axis=0), rtol=1e-4)


def test_statistics_of_a_single_row():
    statistics = ColumnStatistics(2)
    statistics.add(np.array([[0.1, 3.0]], np.float32))
    assert statistics.mean().tolist() == [np.float32(0.1), 3.0]
    assert statistics.variance().tolist() == [0.0, 0.0]
