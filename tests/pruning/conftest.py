"""A trained model, and exports that take no fresh process."""

from __future__ import annotations

import functools

import keras
import pytest
from helpers.three_classes import TRAIN, compile_
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.pruning import pruning_run


@pytest.fixture(scope="module")
def original():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(16, 3, use_bias=False, name="conv1"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
            layers.Conv2D(12, 3, activation="relu", name="conv2"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="head"),
        ],
        name="tiny",
    )
    compile_(model)
    model.fit(*TRAIN, epochs=8, batch_size=16, verbose=0)
    return model


@pytest.fixture(autouse=True)
def no_fresh_process(request, monkeypatch):
    """Exports without a check in a fresh process, which takes seconds, but for one run."""
    if "undisturbed" not in request.fixturenames:
        quick = functools.partial(kbp.export_saved_model, verify=False)
        monkeypatch.setattr(pruning_run, "export_saved_model", quick)
