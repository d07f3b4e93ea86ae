"""Differences between models, without the rounding of float32."""

from __future__ import annotations

import keras
import numpy as np
from exactness import largest_difference
from helpers.models import perturb_maps, randomized

import keras_branch_prune as kbp
from keras_branch_prune.zoo import dcgan_generator


def inputs():
    return np.random.default_rng(0).normal(size=(32, 5)).astype("float32")


def test_a_merged_model_differs_by_the_rounding_of_its_weights_only():
    model = randomized(dcgan_generator(noise=5, widths=(16, 12, 8), image_shape=(8, 12, 3)))
    branched = kbp.branch(model, kbp.plan(model, width=0.5))
    perturb_maps(branched, seed=1)
    kbp.set_alpha(branched, 0)
    # So that images do differ.
    assert np.std(branched(inputs()), axis=0).max() > 0.01
    merged = kbp.merge(branched)
    assert 1e-12 < largest_difference(branched, merged, inputs()) < 1e-6
    assert largest_difference(branched, branched, inputs()) == 0
    assert branched.compute_dtype == "float32"


def dense(*kernel):
    model = keras.Sequential([keras.Input((len(kernel),)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.reshape(kernel, (-1, 1))])
    return model


def test_it_is_the_largest_difference_of_all():
    inputs = np.array([[1, 1], [2, -3], [0, 1]], "float32")
    assert largest_difference(dense(1, 2), dense(1, 0), inputs) == 6


def test_nothing_is_lost_that_float32_would_round_away():
    ones = np.ones((1, 3), "float32")
    assert largest_difference(dense(1e8, 1, -1e8), dense(1e8, 0, -1e8), ones) == 1
