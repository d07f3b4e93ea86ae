"""A model wide enough for plans of a budget, and what a plan made of it."""

from __future__ import annotations

import keras
import numpy as np
from helpers.models import randomized

import keras_branch_prune as kbp


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
