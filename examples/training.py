"""What the example scripts share: settings that must stay, and a model to begin with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from augmentation import EpochNumber

import keras_branch_prune as kbp


def keep_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes down what the results in a folder depend on.

    Args:
        folder: The folder; made if need be.
        settings: By name, as in JSON.

    Raises:
        ValueError: If the folder was begun with other settings.
    """
    path = folder / "settings.json"
    if path.exists():
        old = read_json(path)
        changed = {name for name in old | settings if old.get(name) != settings.get(name)}
        if changed:
            raise ValueError(
                f"'{folder}' was begun with other settings: {sorted(changed)}. "
                "Use the same ones to continue, or another --output_dir."
            )
    write_json(path, settings)


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, atomically."""
    with kbp.atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def compile_classifier(model: keras.Model, learning_rate: Any = 0.01) -> None:
    """Compiles a model that returns logits."""
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def trained(
    folder: Path,
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
        folder: Where model, history and backup are kept, as `original.…`.
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
    path, history = folder / "original.keras", folder / "original.history.json"
    backup = kbp.EpochBackup(folder / "original.backup")
    if not path.exists():
        keras.utils.set_random_seed(seed)
        model = build()
        steps = epochs * int(images.cardinality())
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        compile(model, rate)
        model.fit(
            images,
            epochs=epochs,
            initial_epoch=backup.restore(model),
            validation_data=validation,
            callbacks=[clock, backup],
            shuffle=False,
            verbose=2,
        )
        write_json(history, backup.history)
        kbp.save_model(model, path)
    shutil.rmtree(backup.folder, ignore_errors=True)
    return kbp.load_model(path, compile=False), read_json(history)
