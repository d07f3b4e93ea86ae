"""The models whose speed is measured: random weights, for speed does not depend on them."""

from __future__ import annotations

import keras

import keras_branch_prune as kbp


def build(name: str) -> keras.Model:
    """Returns the VGG16 of the zoo, at 32 px, or an architecture of `keras.applications`, at 64."""
    if name == "VGG16":
        return kbp.zoo.vgg16()
    options = {"weights": None, "input_shape": (64, 64, 3), "classes": 10}
    return getattr(keras.applications, name)(**options)


def pruned(model: keras.Model, width: float, round_to: int) -> keras.Model:
    """Returns the narrow model, without data and training."""
    branched = kbp.branch(model, kbp.plan(model, width=width, round_to=round_to))
    kbp.set_alpha(branched, 0)
    return kbp.merge(branched)
