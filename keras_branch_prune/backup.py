"""Training that continues exactly where it was killed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import keras

from keras_branch_prune.files import atomic_write

_WEIGHTS = "epoch-{:06d}.weights.h5"
_WEIGHTS_PATTERN = re.compile(r"epoch-(\d{6})\.weights\.h5")
_HISTORY = "history.json"


class EpochBackup(keras.callbacks.Callback):
    """Saves weights, optimizer state and logs after every epoch, so that `fit` can be resumed.

    Unlike `keras.callbacks.BackupAndRestore`, a backup is one file whose name holds the number of
    epochs done, put in place atomically: whenever the process is killed, the folder holds one whole
    backup, and no epoch is lost or trained twice but the one under way. What α callbacks know is in
    the weights; put this callback after them.

    The random states of `Dropout` and the like are not saved by Keras: with them, a resumed run is
    as good as an undisturbed one, but not identical.

    Args:
        folder: Where the backup is kept. It is not removed when training ends.

    Example:
        >>> backup = keras_branch_prune.EpochBackup("output/backup")
        >>> branched.fit(train, epochs=20, initial_epoch=backup.restore(branched),
        ...              callbacks=[keras_branch_prune.AlphaStepDecay(0.1), backup])
    """

    def __init__(self, folder: str | os.PathLike[str]):
        super().__init__()
        self.folder = Path(folder)

    @property
    def history(self) -> list[dict[str, float]]:
        """The logs of all epochs done, over all runs, each with its number as `epoch`."""
        path = self.folder / _HISTORY
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        return rows[: self._epochs_done()]

    def restore(self, model: keras.Model) -> int:
        """Puts a model into the state of the backup, if there is one.

        Args:
            model: A compiled model of the same structure as the saved one.

        Returns:
            The number of epochs done, for `fit(initial_epoch=…)`; 0 without a backup.

        Raises:
            ValueError: If the model is not compiled, or the backup does not fit it.
        """
        if not model.compiled:
            raise ValueError(f"`model` must be compiled. Received: '{model.name}', not compiled")
        epochs = self._epochs_done()
        if epochs:
            model.optimizer.build(model.trainable_variables)
            model.load_weights(self.folder / _WEIGHTS.format(epochs))
        return epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves the history, then the weights, whose name makes the epoch count as done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        row = {"epoch": epoch, **{name: float(value) for name, value in (logs or {}).items()}}
        with atomic_write(self.folder / _HISTORY) as temporary:
            temporary.write_text(json.dumps([*self.history, row]), encoding="utf-8")
        older = self._backups()
        with atomic_write(self.folder / _WEIGHTS.format(epoch + 1)) as temporary:
            self.model.save_weights(temporary)
        for path in older.values():
            path.unlink()

    def _epochs_done(self) -> int:
        return max(self._backups(), default=0)

    def _backups(self) -> dict[int, Path]:
        paths = self.folder.iterdir() if self.folder.exists() else ()
        found = {path: _WEIGHTS_PATTERN.fullmatch(path.name) for path in paths}
        return {int(match[1]): path for path, match in found.items() if match}
