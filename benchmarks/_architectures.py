"""The models whose speed is measured: their weights are random, as if trained.

TensorFlow drops a bias that is all zero, and fuses a convolution with its ReLU only where there is
a bias. A model that was just built, where they all are zero, is slower than when trained.
"""

from __future__ import annotations

import keras
import numpy as np

import keras_branch_prune as kbp


def build(name: str) -> keras.Model:
    """Returns the VGG16 of the zoo, at 32 px, or an architecture of `keras.applications`, at 64."""
    if name == "VGG16":
        return as_if_trained(kbp.zoo.vgg16())
    options = {"weights": None, "input_shape": (64, 64, 3), "classes": 10}
    return as_if_trained(getattr(keras.applications, name)(**options))


def as_if_trained(model: keras.Model) -> keras.Model:
    """Draws biases, and what batch normalization shifts and scales by; returns the same model."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name in ("bias", "beta", "moving_mean"):
            weight.assign(random.normal(0, 0.1, weight.shape))
        elif weight.name in ("gamma", "moving_variance"):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    return model


def pruned(model: keras.Model, width: float, round_to: int) -> keras.Model:
    """Returns the narrow model, without data and training."""
    return kbp.select(model, kbp.plan(model, width=width, round_to=round_to))
