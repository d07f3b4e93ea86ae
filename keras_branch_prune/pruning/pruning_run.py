"""What pruning with and without blending have in common: the plan, fine-tuning and the result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_branch_prune.analysis import PruningPlan, count_macs, count_parameters
from keras_branch_prune.exporting import export_saved_model
from keras_branch_prune.graph import build_model, canonical
from keras_branch_prune.planning import plan
from keras_branch_prune.pruning.recipe import Recipe
from keras_branch_prune.pruning.result import PruningResult
from keras_branch_prune.pruning.run_folder import RunFolder
from keras_branch_prune.pruning.trainer import Trainer
from keras_branch_prune.training import Distiller, RewindLearningRate


@dataclasses.dataclass(frozen=True, eq=False)
class PruningRun:
    """One model on its way to a compact one; begun or resumed by `start`.

    Args:
        folder: Keeps the stages that are done.
        model: The model to prune; it is not changed.
        trainer: Trains and evaluates.
        target: Arguments of `plan`, or a finished plan as "plan".
    """

    folder: RunFolder
    model: keras.Model
    trainer: Trainer
    target: Mapping[str, Any]

    @classmethod
    def start(
        cls,
        output_dir: str | os.PathLike[str],
        model: keras.Model,
        trainer: Trainer,
        target: Mapping[str, Any],
        **settings: Any,
    ) -> PruningRun:
        """Returns the run in a folder; `settings` are further ones that its results depend on.

        Raises:
            ValueError: If the folder was begun with other arguments.
        """
        settings = {**_settings(model, trainer.recipe, target), **settings}
        return cls(RunFolder(output_dir, settings), model, trainer, target)

    def make_plan(self) -> PruningPlan:
        """Returns the plan, made and saved at the first call."""
        path = self.folder.path("plan.json")
        if not path.exists():
            options = dict(self.target)
            made = options.pop("plan", None)
            if made is not None and options:
                raise ValueError(
                    "`plan` is finished; nothing else can be asked for. Received: "
                    f"{sorted(options)}"
                )
            if made is None:
                options = {"seed": self.trainer.recipe.seed, **options}
                made = plan(self.model, **options | {"calibration": self.calibration()})
            made.save(path)
        return PruningPlan.load(path)

    def calibration(self) -> Any:
        """Returns the samples for calibration: those that were given, else training samples."""
        if "calibration" in self.target:
            return self.target["calibration"]
        return self.trainer.calibration()

    def finetune(self, stage: str, begin: Callable[[], keras.Model]) -> keras.Model:
        """Returns a model after fine-tuning from the early learning rate, which falls to 0.

        Args:
            stage: Name of the stage, which is done once.
            begin: Returns the model to begin with.
        """

        def make(backup: Path) -> keras.Model:
            model, epochs = begin(), self.trainer.recipe.finetune_epochs
            if epochs:
                rate = self.trainer.early_rate
                self.trainer.fit(
                    self.with_losses(model),
                    backup,
                    epochs=epochs,
                    learning_rate=rate,
                    callbacks=[RewindLearningRate(epochs, learning_rate=rate)],
                )
            return model

        return self.folder.stage(stage, make)

    def with_losses(self, model: keras.Model, matching: float = 0.0) -> keras.Model:
        """Returns a model that trains `model` with the recipe's further losses, if it has any.

        Args:
            model: The model.
            matching: Weight of the distance between the branches.
        """
        recipe = self.trainer.recipe
        if not recipe.distillation and not matching:
            return model
        return Distiller(
            model,
            self.model if recipe.distillation else None,
            weight=recipe.distillation,
            temperature=recipe.temperature,
            matching=matching,
        )

    def make_result(
        self, pruning_plan: PruningPlan, stages: Sequence[str], test: Any = None
    ) -> PruningResult:
        """Exports and evaluates the compact model, unless that was done; returns the result.

        Args:
            pruning_plan: How the model was pruned.
            stages: The training stages; the model of the last one is the compact model.
            test: Data to evaluate on too.
        """
        folder = self.folder
        metrics = folder.once("result.json", lambda: self._compare(folder.load(stages[-1]), test))
        history = {name: folder.history(name) for name in stages}
        # Loaded again: evaluating compiled the other one.
        model = folder.load(stages[-1])
        result = PruningResult(model, pruning_plan, metrics, history, folder.root)
        folder.write_text("table.txt", f"{result}\n")
        return result

    def _compare(self, compact: keras.Model, test: Any) -> dict[str, dict[str, float]]:
        """Exports the compact model; returns its metrics and the original's."""
        export_saved_model(compact, self.folder.path("compact_saved_model"))
        # A copy of the original, which evaluating compiles.
        models = {"original": build_model(canonical(self.model)), "compact": compact}
        return {name: self._measure(model, test) for name, model in models.items()}

    def _measure(self, model: keras.Model, test: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        for prefix, data in (("val", self.trainer.validation), ("test", test)):
            if data is not None:
                values = self.trainer.evaluate(model, data)
                found |= {f"{prefix}_{name}": value for name, value in values.items()}
        return {**found, "parameters": count_parameters(model), "macs": count_macs(model)}


def _settings(model: keras.Model, recipe: Recipe, target: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the results of a run depend on, apart from the data and the compilation."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    given = {name: _to_text(value) for name, value in target.items() if name != "calibration"}
    original = f"{model.name}, weights {digest.hexdigest()[:16]}"
    return {"model": original, **dataclasses.asdict(recipe), **given}


def _to_text(value: Any) -> str:
    """Returns an argument as a text that is the same in every process."""
    if isinstance(value, PruningPlan):
        return hashlib.sha256(value.to_json().encode()).hexdigest()[:16]
    return json.dumps(value, default=_leaf_to_text)


def _leaf_to_text(leaf: Any) -> str:
    # The text of a Keras loss holds the address of its function, which differs between processes.
    return getattr(leaf, "__name__", None) or re.sub(" at 0x[0-9a-f]+", "", repr(leaf))
