"""What the example scripts share: a model to begin with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from augmentation import EpochNumber

import keras_branch_prune as kbp


def compile_classifier(model: keras.Model, learning_rate: Any = 0.01) -> None:
    """Compiles a model that returns logits."""
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def train_once(
    run: kbp.RunFolder,
    name: str,
    build: Callable[[], keras.Model],
    images: tf.data.Dataset,
    validation: tuple[Any, Any],
    clock: EpochNumber,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    compile: Callable[[keras.Model, Any], None] = compile_classifier,
) -> tuple[keras.Model, list[dict[str, float]]]:
    """Trains a model from where it was interrupted; or loads it if it is done.

    Args:
        run: Keeps model, history and backup.
        name: Name of the stage.
        build: Returns the model with random weights.
        images: Batches to train on.
        validation: Inputs and targets, watched after every epoch.
        clock: Sets the number of the epoch that `images` depend on.
        epochs: Number of epochs.
        learning_rate: The initial learning rate; it falls to 0 along a cosine.
        seed: Seed of the weights.
        compile: Compiles the model with a learning rate; unless given, as a classifier.

    Returns:
        The model, and the logs of its epochs.
    """

    def train(folder: Path) -> keras.Model:
        keras.utils.set_random_seed(seed)
        model, backup = build(), kbp.EpochBackup(folder)
        steps = epochs * int(images.cardinality())
        compile(model, keras.optimizers.schedules.CosineDecay(learning_rate, steps))
        model.fit(
            images,
            epochs=epochs,
            initial_epoch=backup.restore(model),
            validation_data=validation,
            callbacks=[clock, backup],
            shuffle=False,
            verbose=2,
        )
        return model

    return run.stage(name, train), run.history(name)
