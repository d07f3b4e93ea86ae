"""What the example scripts share: stages that are trained once and resumed where they stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from augmentation import EpochNumber, augment
from image_data import ImageData, Split

import keras_branch_prune as kbp


class Run:
    """A folder in which a training in several stages is kept, so that it can be resumed.

    Args:
        folder: The folder.
        settings: What the results depend on. A folder begun with other settings is refused.

    Raises:
        ValueError: If the folder was begun with other settings.
    """

    def __init__(self, folder: str, settings: dict[str, Any]):
        self.folder = Path(folder)
        path = self.folder / "settings.json"
        if path.exists():
            old = json.loads(path.read_text(encoding="utf-8"))
            changed = {name for name in old | settings if old.get(name) != settings.get(name)}
            if changed:
                raise ValueError(
                    f"'{folder}' was begun with other settings: {sorted(changed)}. "
                    "Use the same ones to continue, or another --output_dir."
                )
        self.write_json("settings.json", settings)

    def path(self, name: str) -> Path:
        """Returns the path of a file in the folder."""
        return self.folder / name

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file into the folder, atomically."""
        with kbp.atomic_write(self.path(name)) as temporary:
            temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    def stage(self, name: str, train: Callable[[kbp.EpochBackup], keras.Model]) -> keras.Model:
        """Returns the model of a stage: loaded if the stage is done, else trained and saved.

        Args:
            name: Name of the stage; its model is saved as `name.keras`.
            train: Trains the model, with the backup as the last callback.
        """
        path, backup = self.path(f"{name}.keras"), kbp.EpochBackup(self.path(f"{name}.backup"))
        if not path.exists():
            model = train(backup)
            self.write_json(f"{name}.history.json", backup.history)
            kbp.save_model(model, path)
        shutil.rmtree(backup.folder, ignore_errors=True)
        return kbp.load_model(path, compile=False)

    def history(self, name: str) -> list[dict[str, float]]:
        """Returns the logs of a finished stage's epochs; none if it was not trained here."""
        path = self.path(f"{name}.history.json")
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def fit(
    model: keras.Model,
    data: ImageData,
    backup: kbp.EpochBackup,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    batch_size: int,
    flip: bool,
    decay: bool = True,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    finished: Callable[[keras.Model], bool] = lambda model: False,
) -> keras.Model:
    """Trains a classifier with SGD on augmented images, from where `backup` is; returns it.

    Args:
        model: From images to logits; trained in place.
        data: Trained on the training images, watched on the validation images.
        backup: Restored before and written after every epoch.
        epochs: Number of epochs in all.
        learning_rate: The initial learning rate.
        seed: Decides order and augmentation of the images.
        batch_size: Images per step.
        flip: Whether images may be mirrored.
        decay: Whether the learning rate falls to 0 along a cosine, or stays.
        callbacks: Further callbacks, called before the backup is written.
        finished: Whether a model restored from a backup needs no more epochs.
    """
    clock = EpochNumber()
    images = augment(
        data.train.images, data.train.labels, batch_size, seed, flip=flip, epoch=clock.variable
    )
    rate = learning_rate
    if decay:
        rate = keras.optimizers.schedules.CosineDecay(rate, epochs * images.cardinality().numpy())
    compile_classifier(model, keras.optimizers.SGD(rate, momentum=0.9, nesterov=True))
    epochs_done = backup.restore(model)
    if finished(model):
        return model
    model.fit(
        images,
        epochs=epochs,
        initial_epoch=epochs_done,
        validation_data=(data.validation.images, data.validation.labels),
        validation_batch_size=256,
        callbacks=[clock, *callbacks, backup],
        shuffle=False,
        verbose=2,
    )
    return model


def compile_classifier(model: keras.Model, optimizer: Any = "sgd") -> None:
    """Compiles a model that returns logits."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])


def accuracies(model: keras.Model, splits: Sequence[Split]) -> list[float]:
    """Returns the share of the images of each split that a classifier gets right."""
    compile_classifier(model)
    return [
        model.evaluate(split.images, split.labels, 256, verbose=0, return_dict=True)["accuracy"]
        for split in splits
    ]
