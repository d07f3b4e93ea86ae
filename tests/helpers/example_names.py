"""What the examples of docstrings and of the README find under the names that they use."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_branch_prune as kbp

SHAPE = (16, 16, 3)
FEW_EPOCHS = 5
SLOW = re.compile(r"\b(export_\w+|benchmark|prune|standard_prune)\(|latency=")
"""What starts processes, measures or trains in several stages."""


def mark(name: Any, code: str) -> Any:
    """Returns the name of an example as a parameter of a test, which is slow if the example is."""
    return pytest.param(name, marks=[pytest.mark.slow] if SLOW.search(code) else [])


def names_for(code: str) -> dict[str, Any]:
    """Returns the objects that an example mentions without making them, by name."""
    makers: dict[str, Callable[[], Any]] = {
        "images": lambda: images,
        "labels": lambda: labels,
        "validation_images": lambda: images,
        "validation_labels": lambda: labels,
        "train": lambda: tf.data.Dataset.from_tensor_slices((images, labels)).batch(48),
        "validation": lambda: (images, labels),
        "model": lambda: model,
        "plan": lambda: plan,
        "branched": lambda: branched(model, plan),
        "compact": lambda: kbp.merge(at_zero(branched(model, plan))),
        "generator": lambda: kbp.zoo.dcgan_generator(
            noise=4, widths=(8, 4), image_shape=(16, 16, 3)
        ),
        "discriminator": lambda: kbp.zoo.dcgan_discriminator(
            widths=(4, 8), image_shape=(16, 16, 3)
        ),
        "train_one_epoch": lambda: lambda model: model(images, training=True),
    }
    keras.utils.set_random_seed(0)
    labels = np.arange(48) % 4
    images = np.random.default_rng(0).random((48, *SHAPE), dtype=np.float32) / 4
    images[np.arange(48), labels] += 0.75  # A bright row for every class.
    model = classifier()
    plan = kbp.plan(model, width=0.5)
    modules = {"keras": keras, "np": np, "tf": tf, "kbp": kbp, "keras_branch_prune": kbp}
    mentioned = [name for name in makers if re.search(rf"\b{name}\b", code)]
    found = {name: makers[name]() for name in mentioned}
    keras.utils.clear_session()  # Or the layers of the example would be numbered on.
    return modules | found


def classifier() -> keras.Model:
    x = inputs = keras.Input(SHAPE, name="image")
    for filters, name in ((8, "block1_conv1"), (72, "block1_conv2")):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    encoder = keras.Sequential([keras.Input((288,)), layers.Dense(6)], name="encoder")
    x = encoder(layers.Flatten()(layers.MaxPooling2D(8)(x)))
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(x), name="model")
    return compiled(model)


def compiled(model: keras.Model) -> keras.Model:
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def branched(model: keras.Model, plan: kbp.PruningPlan) -> keras.Model:
    return compiled(kbp.branch(model, plan))


def at_zero(model: keras.Model) -> keras.Model:
    kbp.set_alpha(model, 0)
    return model


@contextlib.contextmanager
def short_training(monkeypatch: pytest.MonkeyPatch):
    """Lets long trainings last an epoch, with α = 0 then, as at the end of all epochs."""
    fit = keras.Model.fit

    def fit_shortly(model, *args, epochs=1, initial_epoch=0, **options):
        model.run_eagerly = True  # Tracing takes longer than a step.
        options |= {"initial_epoch": initial_epoch, "shuffle": False, "verbose": 0}
        if epochs <= FEW_EPOCHS:
            return fit(model, *args, epochs=epochs, **options)
        history = fit(model, *args, epochs=initial_epoch + 1, **options)
        inner = getattr(model, "model", None) or getattr(model, "generator", model)
        with contextlib.suppress(ValueError):  # A model without α.
            kbp.set_alpha(inner, 0)
        return history

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "fit", fit_shortly)
        yield
