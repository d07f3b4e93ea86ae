"""Training that continues exactly where it was killed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras

from keras_branch_prune.files import atomic_write
from keras_branch_prune.training.callback_states import Stateful, read_states, write_states
from keras_branch_prune.training.divergence import has_diverged
from keras_branch_prune.training.snapshot import build_optimizer, require_compiled

_WEIGHTS = "epoch-{:06d}.weights.h5"
_WEIGHTS_PATTERN = re.compile(r"epoch-(\d{6})\.weights\.h5")
_STATES = "epoch-{:06d}.callbacks.npz"
_STATES_PATTERN = re.compile(r"epoch-(\d{6})\.callbacks\.npz")
_HISTORY = "history.json"


class EpochBackup(keras.callbacks.Callback):
    """Saves weights, optimizer state and logs after every epoch, so that `fit` can be resumed.

    Unlike `keras.callbacks.BackupAndRestore`, a backup is one file whose name holds the number of
    epochs done, put in place atomically: whenever the process is killed, the folder holds one whole
    backup, and only the epoch under way is trained again. The state of callbacks that follow a
    schedule of α is saved with the weights. Others, such as `AlphaBacktracking`, hold more; name
    them as `callbacks`. Put this callback after all of them.

    An epoch that ends with a NaN or infinite loss or trainable weight is not backed up: the last
    good backup stays, and a resumed run trains that epoch again. Its logs are kept.

    The random states of `Dropout` and the like are not saved by Keras: with them, a resumed run is
    as good as an undisturbed one, but not identical.

    Args:
        folder: Where the backup is kept. It is not removed when training ends.
        callbacks: Callbacks of the same `fit`. The state of those with `get_state` and `set_state`
            is saved beside the weights and restored; others are ignored. Keras' own callbacks have
            neither method and begin anew.

    Raises:
        ValueError: If something else than callbacks is given.

    Example:
        >>> backup = kbp.EpochBackup("backup")
        >>> branched.fit(train, epochs=20, initial_epoch=backup.restore(branched),
        ...              callbacks=[kbp.AlphaStepDecay(0.1), backup])
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        callbacks: Iterable[keras.callbacks.Callback] = (),
    ):
        super().__init__()
        self.folder = Path(folder)
        self.callbacks = tuple(callbacks)
        wrong = [c for c in self.callbacks if not isinstance(c, keras.callbacks.Callback)]
        if wrong:
            raise ValueError(f"`callbacks` must be Keras callbacks. Received: {wrong[0]!r}")

    @property
    def history(self) -> list[dict[str, float]]:
        """The logs of all epochs done, over all runs, each with its number as `epoch`."""
        return self._rows_before(self._epochs_done())

    def restore(self, model: keras.Model) -> int:
        """Puts a model and the callbacks into the state of the backup, if there is one.

        Args:
            model: A compiled model of the same structure as the saved one.

        Returns:
            The number of epochs done, for `fit(initial_epoch=…)`; 0 without a backup.

        Raises:
            ValueError: If the model is not compiled, or the backup does not fit it or the
                callbacks.
        """
        require_compiled(model)
        epochs = self._epochs_done()
        if epochs:
            if self._stateful:
                # Before the weights, so that a refusal leaves the model as it was.
                self._restore_callbacks(self.folder / _STATES.format(epochs))
            build_optimizer(model)
            model.load_weights(self.folder / _WEIGHTS.format(epochs))
        return epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves history and callbacks, then the weights: the epoch is done once these are there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        logs = logs or {}
        row = {"epoch": epoch, **{name: float(value) for name, value in logs.items()}}
        # Rows of an epoch that is trained again are dropped.
        with atomic_write(self.folder / _HISTORY) as temporary:
            temporary.write_text(json.dumps([*self._rows_before(epoch), row]), encoding="utf-8")
        if has_diverged(self.model, logs):
            return
        if self._stateful:
            write_states(self.folder / _STATES.format(epoch + 1), self._stateful)
        with atomic_write(self.folder / _WEIGHTS.format(epoch + 1)) as temporary:
            self.model.save_weights(temporary)
        # Old files go last: a kill before leaves two backups, of which the newer counts.
        for pattern in (_WEIGHTS_PATTERN, _STATES_PATTERN):
            for number, path in self._files(pattern).items():
                if number != epoch + 1:
                    path.unlink()

    @property
    def _stateful(self) -> list[Stateful]:
        return [callback for callback in self.callbacks if isinstance(callback, Stateful)]

    def _restore_callbacks(self, path: Path) -> None:
        if not path.exists():
            raise ValueError(
                f"`callbacks` must be given when the backup is made, too: '{self.folder}' holds no "
                f"state of callbacks. Received: {[type(c).__name__ for c in self._stateful]}"
            )
        read_states(path, self._stateful)

    def _rows_before(self, epoch: int) -> list[dict[str, float]]:
        path = self.folder / _HISTORY
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        return [row for row in rows if row["epoch"] < epoch]

    def _epochs_done(self) -> int:
        return max(self._files(_WEIGHTS_PATTERN), default=0)

    def _files(self, pattern: re.Pattern[str]) -> dict[int, Path]:
        paths = self.folder.iterdir() if self.folder.exists() else ()
        found = {path: pattern.fullmatch(path.name) for path in paths}
        return {int(match[1]): path for path, match in found.items() if match}
