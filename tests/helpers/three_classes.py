"""A task that a tiny model learns in seconds: three classes of points, and how it is trained."""

from __future__ import annotations

import keras
import numpy as np

import keras_branch_prune as kbp

RECIPE = kbp.Recipe(
    blend_epochs=6, finetune_epochs=3, learning_rate=0.02, calibration_samples=64, batch_size=16
)


def data(samples=96, seed=0):
    """Three classes of points, far from each other."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, samples)
    centres = 2 * np.random.default_rng(99).normal(size=(3, 6, 6, 2))
    images = centres[labels] + rng.normal(size=(samples, 6, 6, 2))
    return images.astype(np.float32), labels


TRAIN, VALIDATION, TEST = data(), data(48, 1), data(48, 2)


def compile_(model, loss="sparse_categorical_crossentropy", **options):
    if loss == "sparse_categorical_crossentropy":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
    model.compile(optimizer, loss, metrics=["accuracy"], **options)


def untrained(model):
    """Returns a copy with random weights, not compiled."""
    return type(model).from_config(model.get_config())


def prune(original, folder, **options):
    options = {
        "recipe": RECIPE,
        "verbose": 0,
        **({} if "plan" in options else {"width": 0.5}),
        **options,
    }
    return kbp.prune(original, TRAIN, VALIDATION, output_dir=folder, **options)
