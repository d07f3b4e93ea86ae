"""What the pruning runs have in common: their settings, the plan, and training after pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_branch_prune.analysis import PruningPlan
from keras_branch_prune.planning import plan
from keras_branch_prune.pruning.recipe import Recipe
from keras_branch_prune.pruning.run_folder import RunFolder
from keras_branch_prune.pruning.trainer import Trainer
from keras_branch_prune.training import Distiller, RewindLearningRate


def planned(
    run: RunFolder, model: keras.Model, trainer: Trainer, target: Mapping[str, Any]
) -> PruningPlan:
    """Returns the plan of a run, which is made once.

    Args:
        run: The folder of the run.
        model: The model to prune.
        trainer: Has the calibration data.
        target: Arguments of `plan`, or a finished plan as "plan".
    """
    path = run.path("plan.json")
    if not path.exists():
        options = dict(target)
        made = options.pop("plan", None)
        if made is not None and options:
            raise ValueError(
                f"`plan` is finished; nothing else can be asked for. Received: {sorted(options)}"
            )
        if made is None:
            options = {"seed": trainer.recipe.seed, **options}
            made = plan(model, **{**options, "calibration": calibration_data(trainer, target)})
        made.save(path)
    return PruningPlan.load(path)


def calibration_data(trainer: Trainer, target: Mapping[str, Any]) -> Any:
    """Returns what to calibrate on: the samples that were given, else training samples."""
    return target["calibration"] if "calibration" in target else trainer.calibration()


def finetuned(
    make: Callable[[], keras.Model], original: keras.Model, trainer: Trainer, backup: Path
) -> keras.Model:
    """Returns a model after fine-tuning from the early learning rate, which falls to 0.

    Args:
        make: Returns the model to begin with.
        original: The model that is distilled, if the recipe says so.
        trainer: Trains.
        backup: Folder of the backup.
    """
    model, epochs = make(), trainer.recipe.finetune_epochs
    if epochs:
        rate = trainer.early_rate
        trainer.fit(
            with_losses(model, original, trainer.recipe),
            backup,
            epochs=epochs,
            learning_rate=rate,
            callbacks=[RewindLearningRate(epochs, learning_rate=rate)],
        )
    return model


def with_losses(
    model: keras.Model, original: keras.Model, recipe: Recipe, matching: float = 0.0
) -> keras.Model:
    """Returns what trains a model with the further losses of a recipe: itself if there are none."""
    if not recipe.distillation and not matching:
        return model
    return Distiller(
        model,
        original if recipe.distillation else None,
        weight=recipe.distillation,
        temperature=recipe.temperature,
        matching=matching,
    )
