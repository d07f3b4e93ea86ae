"""Prunes a small model on scikit-learn's digits; run and killed by `pruning/test_kills.py`."""

import sys

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_branch_prune as kbp


def data():
    """Returns training and validation data."""
    digits = load_digits()
    images = digits.images[..., None].astype(np.float32) / 16
    return (images[:1200], digits.target[:1200]), (images[1200:], digits.target[1200:])


def compile_(model):
    """Compiles a classifier that returns logits."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])


def prune(original, folder):
    """Prunes it, adaptively."""
    compile_(original)
    recipe = kbp.Recipe(blend_epochs=20, finetune_epochs=6, calibration_samples=200)
    return kbp.prune(
        original,
        *data(),
        output_dir=folder,
        alpha=kbp.AlphaBacktracking(0.25, max_drop=0.03, patience=2),
        recipe=recipe,
        verbose=2,
        width=0.4,
    )


if __name__ == "__main__":
    prune(kbp.load_model(sys.argv[1], compile=False), sys.argv[2])
