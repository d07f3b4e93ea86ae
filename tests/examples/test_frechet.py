"""The Fréchet distance, against what is known of Gaussians in closed form."""

from __future__ import annotations

import re

import numpy as np
import pytest
from frechet import Gaussian, frechet_distance


def gaussian(mean, covariance):
    return Gaussian(np.array(mean, float), np.array(covariance, float), 100)


def features(samples=500, count=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, count)) @ rng.normal(size=(count, count))


def test_equal_distributions_have_no_distance():
    same = Gaussian.of(features())
    assert frechet_distance(same, same) == pytest.approx(0, abs=1e-10)


def test_a_shift_of_the_mean_counts_by_its_square():
    shift = np.array([3, 0, -4, 0, 0, 1.0])
    first, second = Gaussian.of(features()), Gaussian.of(features() + shift)
    assert frechet_distance(first, second) == pytest.approx(26, rel=1e-10)


def test_diagonal_covariances():
    """Then it is the sum of the squared differences of means and of standard deviations."""
    first = gaussian([1, 2, 0], np.diag([4, 9, 0]))
    second = gaussian([0, 2, 2], np.diag([1, 25, 16]))
    assert frechet_distance(first, second) == pytest.approx(1 + 4 + 1 + 4 + 16)


def test_rotations_of_both_change_nothing():
    rotation = np.linalg.qr(features(6))[0]
    first = gaussian([0] * 6, rotation @ np.diag([1, 2, 3, 4, 5, 6]) @ rotation.T)
    second = gaussian([0] * 6, rotation @ np.diag([4, 2, 12, 4, 20, 54]) @ rotation.T)
    expected = 1 + 0 + 3 + 0 + 5 + (np.sqrt(54) - np.sqrt(6)) ** 2
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-10)


def test_covariances_that_do_not_commute():
    """In two dimensions, Tr((C₁ C₂)^½)² = Tr(C₁ C₂) + 2 det(C₁ C₂)^½."""
    one, other = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[5.0, -2.0], [-2.0, 1.0]])
    product = one @ other
    trace = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = np.trace(one) + np.trace(other) - 2 * trace
    pair = gaussian([0, 0], one), gaussian([0, 0], other)
    assert frechet_distance(*pair) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(*pair[::-1]) == pytest.approx(expected, rel=1e-10)


def test_features_that_are_constant_or_repeated_are_no_harm():
    doubled = np.repeat(features(), 2, axis=1) * 1e3
    doubled[:, 0] = 7
    first, second = Gaussian.of(doubled), Gaussian.of(doubled[::-1])
    assert frechet_distance(first, second) == pytest.approx(0, abs=1e-5)


def test_estimates_are_unbiased():
    found = Gaussian.of(np.array([[1.0, 2.0], [3.0, 2.0]], np.float32))
    np.testing.assert_array_equal(found.mean, [2, 2])
    np.testing.assert_array_equal(found.covariance, [[2, 0], [0, 0]])
    assert found.samples == 2
    assert found.mean.dtype == found.covariance.dtype == np.float64
    assert Gaussian.of(np.ones((3, 1))).covariance.shape == (1, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.ones((1, 4)), "at least two samples. Received: shape (1, 4)"),
        (np.ones(4), "`features` must be (samples, features)"),
        (np.ones((4, 0)), "`features` must be (samples, features)"),
        (np.array([[1.0], [np.nan]]), "`features` must be finite"),
        (np.array([[1.0], [np.inf]]), "`features` must be finite"),
    ],
)
def test_bad_features(wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Gaussian.of(wrong)


def test_different_numbers_of_features():
    with pytest.raises(ValueError, match="Both Gaussians must have as many features"):
        frechet_distance(Gaussian.of(features()), Gaussian.of(features(count=5)))
