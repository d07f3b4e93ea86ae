"""A folder in which work in several stages is kept, so that it can be resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_branch_prune.analysis import PruningPlan
from keras_branch_prune.files import atomic_write, load_model, save_model
from keras_branch_prune.pruning.recipe import Recipe
from keras_branch_prune.training import EpochBackup

_SETTINGS = "settings.json"


class RunFolder:
    """The files of one run: its settings, and a model with its history per stage.

    Every file is either complete or not there. A stage that is done is never done again; the epochs
    of one that was interrupted are in its backup.

    Args:
        folder: The folder; made if need be.
        settings: What the results depend on, by name; values as in JSON.

    Raises:
        ValueError: If the folder was begun with other settings, or holds other files than a run's.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]):
        self.folder = Path(folder)
        settings = json.loads(json.dumps(dict(settings)))
        if not (self.folder / _SETTINGS).exists():
            self._check_empty()
            self.write_json(_SETTINGS, settings)
        self._check_settings(settings)

    def path(self, name: str) -> Path:
        """Returns the path of a file in the folder."""
        return self.folder / name

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file into the folder, atomically."""
        with atomic_write(self.path(name)) as temporary:
            temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    def read_json(self, name: str) -> Any:
        """Returns what a JSON file in the folder holds, or `None` if there is no such file."""
        path = self.path(name)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def stage(self, name: str, make: Callable[[Path], keras.Model]) -> keras.Model:
        """Returns the model of a stage: loaded if the stage is done, else made and saved.

        Args:
            name: Name of the stage; its model is saved as `<name>.keras`.
            make: Returns the model; takes the folder for an `EpochBackup`.

        Raises:
            ModelFileError: If the saved model cannot be loaded.
        """
        path, backup = self.path(f"{name}.keras"), self.path(f"{name}.backup")
        if not path.exists():
            model = make(backup)
            self.write_json(f"{name}.history.json", EpochBackup(backup).history)
            save_model(model, path)
        shutil.rmtree(backup, ignore_errors=True)
        # Always as it was saved: so an interrupted run and an undisturbed one go on alike.
        return load_model(path, compile=False)

    def history(self, name: str) -> list[dict[str, float]]:
        """Returns the logs of a finished stage's epochs; none if nothing was trained in it."""
        return self.read_json(f"{name}.history.json") or []

    def _check_empty(self) -> None:
        found = sorted(path.name for path in self.folder.glob("*") if path.name[0] != ".")
        if found:
            raise ValueError(
                f"`output_dir` must be a new or empty folder, or that of a run. Received: "
                f"'{self.folder}', with {found[:3]}"
            )

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        old = self.read_json(_SETTINGS)
        changed = sorted(n for n in old | settings if old.get(n) != settings.get(n))
        if changed:
            details = ", ".join(f"{n}: {old.get(n)!r} -> {settings.get(n)!r}" for n in changed)
            raise ValueError(
                f"`output_dir` '{self.folder}' was begun with other settings ({details}). Use the "
                "same ones to go on, or another folder."
            )


def run_settings(
    model: keras.Model, recipe: Recipe, target: Mapping[str, Any], **others: Any
) -> dict[str, Any]:
    """Returns what the results of a run depend on, but for the data and the compilation."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    given = {name: _text(value) for name, value in target.items() if name != "calibration"}
    original = f"{model.name}, weights {digest.hexdigest()[:16]}"
    return {"model": original, **dataclasses.asdict(recipe), **given, **others}


def _text(value: Any) -> str:
    """Returns an argument as a text that is the same in every process."""
    if isinstance(value, PruningPlan):
        return hashlib.sha256(value.to_json().encode()).hexdigest()[:16]
    return json.dumps(value, default=lambda leaf: getattr(leaf, "__name__", None) or repr(leaf))
