"""A folder in which work in several stages is kept, so that it can be resumed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import keras

from keras_branch_prune.files import atomic_write, load_model, save_model
from keras_branch_prune.training import EpochBackup

_SETTINGS = "settings.json"

Models = TypeVar("Models", bound=keras.Model | Mapping[str, keras.Model])
"""A model, or several that belong together, by name."""


class RunFolder:
    """The files of one run: its settings, JSON, and the models of its stages with their histories.

    A run that was killed can go on: every file is either complete or not there, a stage that is
    done is not done again, and the backup of an interrupted stage has its complete epochs.

    Args:
        output_dir: The folder; made if need be.
        settings: Everything that the results depend on, by name; values as in JSON.

    Attributes:
        root: The folder, as a path.

    Raises:
        ValueError: If the folder was begun with other settings, or holds other files than a run's.

    Example:
        >>> x, y = np.ones((8, 4)), np.ones((8, 2))
        >>> def train(folder):
        ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        ...     model.compile("sgd", "mse")
        ...     backup = kbp.EpochBackup(folder)
        ...     done = backup.restore(model)
        ...     model.fit(x, y, epochs=1, initial_epoch=done, callbacks=[backup], verbose=0)
        ...     return model
        >>> run = kbp.RunFolder("runs/example", {"epochs": 1})
        >>> model = run.stage("original", train)
        >>> [row["epoch"] for row in run.history("original")]
        [0]
        >>> run.once("size.json", model.count_params)
        10
    """

    def __init__(self, output_dir: str | os.PathLike[str], settings: Mapping[str, Any]):
        self.root = Path(output_dir)
        # As they will be read: tuples become lists, whole keys texts.
        settings = json.loads(json.dumps(dict(settings)))
        if not self.path(_SETTINGS).exists():
            self._check_empty()
            self.write_json(_SETTINGS, settings)
        self._check_settings(settings)

    def path(self, name: str) -> Path:
        """Returns the path of a file in the folder."""
        return self.root / name

    def write_text(self, name: str, text: str) -> None:
        """Writes a text file into the folder, atomically."""
        with atomic_write(self.path(name)) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file into the folder, atomically."""
        self.write_text(name, _as_json(value))

    def read_json(self, name: str) -> Any:
        """Returns what a JSON file in the folder holds, or `None` if there is no such file."""
        path = self.path(name)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Returns what a JSON file in the folder holds, made and written at the first call."""
        if not self.path(name).exists():
            self.write_json(name, make())
        return self.read_json(name)

    def stage(self, name: str, make: Callable[[Path], Models]) -> Models:
        """Returns the model of a stage: loaded if the stage is done, else made and saved.

        Args:
            name: Name of the stage. Its model is saved as `<name>.keras`, the logs of its epochs as
                `<name>.history.json`; several models are files in a folder of this name.
            make: Returns the model, or several that belong together by name, given the folder of
                the stage's `EpochBackup`.

        Returns:
            The model, or the models by name, not compiled.

        Raises:
            ModelFileError: If a saved model cannot be loaded.
        """
        backup = self.path(f"{name}.backup")
        if not (self.path(f"{name}.keras").exists() or self._is_folder(name)):
            models = make(backup)
            self._save(name, models, EpochBackup(backup).history)
        shutil.rmtree(backup, ignore_errors=True)
        # Loaded even if it was just made: then a resumed run goes on from exactly the same.
        return self.load(name)

    def load(self, name: str) -> Any:
        """Returns the model of a finished stage, or its models by name, loaded anew, not compiled.

        Raises:
            FileNotFoundError: If there is no such stage, or it is not finished.
            ModelFileError: If a saved model cannot be loaded.
        """
        if self._is_folder(name):
            paths = self.path(name).glob("*.keras")
            return {path.stem: load_model(path, compile=False) for path in sorted(paths)}
        return load_model(self.path(f"{name}.keras"), compile=False)

    def history(self, name: str) -> list[dict[str, float]]:
        """Returns the logs of a finished stage's epochs; none if nothing was trained in it."""
        file = f"{name}/history.json" if self._is_folder(name) else f"{name}.history.json"
        return self.read_json(file) or []

    def _is_folder(self, name: str) -> bool:
        """Whether a stage of several models is finished."""
        return self.path(f"{name}/history.json").exists()

    def _save(self, name: str, models: Any, history: list[dict[str, float]]) -> None:
        if not isinstance(models, Mapping):
            # The model last: a stage counts as done once it is there.
            self.write_json(f"{name}.history.json", history)
            save_model(models, self.path(f"{name}.keras"))
            return
        # One folder, moved into place at once: models of different attempts must not mix.
        with atomic_write(self.path(name)) as temporary:
            for key, model in models.items():
                save_model(model, temporary / f"{key}.keras")
            (temporary / "history.json").write_text(_as_json(history), encoding="utf-8")

    def _check_empty(self) -> None:
        found = sorted(path.name for path in self.root.glob("*") if path.name[0] != ".")
        if found:
            raise ValueError(
                f"`output_dir` must be a new or empty folder, or that of a run. Received: "
                f"'{self.root}', with {found[:3]}"
            )

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        old = self.read_json(_SETTINGS)
        changed = sorted(n for n in old | settings if old.get(n) != settings.get(n))
        if changed:
            details = ", ".join(f"{n}: {old.get(n)!r} -> {settings.get(n)!r}" for n in changed)
            raise ValueError(
                f"`output_dir` '{self.root}' was begun with other settings ({details}). Use the "
                "same ones to go on, or another folder."
            )


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"
