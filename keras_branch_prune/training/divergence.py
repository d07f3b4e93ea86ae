"""Notices that training has diverged, to NaN or infinite losses and weights, and ends it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_branch_prune.graph import is_finite
from keras_branch_prune.layers import find_alpha
from keras_branch_prune.training.snapshot import Snapshot, take_snapshot


def has_diverged(model: keras.Model, logs: Mapping[str, Any]) -> bool:
    """Returns whether the loss or a trainable weight is NaN or infinite.

    The loss is not enough: it was computed before the last update, which may have broken weights.

    Args:
        model: The model.
        logs: The logs of an epoch. The loss is `"loss"`. A model whose `train_step` logs none, such
            as a GAN, is judged by every log whose name ends in `"_loss"`, those of validation
            excepted; if there is none either, by the weights only.
    """
    return not (_has_finite_loss(logs) and _has_finite_weights(model))


def _has_finite_loss(logs: Mapping[str, Any]) -> bool:
    return all(map(math.isfinite, _losses(logs).values()))


def _losses(logs: Mapping[str, Any]) -> dict[str, float]:
    """Returns `"loss"` of the logs, or without one all losses that were trained on."""
    several = (n for n in sorted(logs) if n.endswith("_loss") and not n.startswith("val_"))
    return {name: float(logs[name]) for name in (["loss"] if "loss" in logs else several)}


def _has_finite_weights(model: keras.Model) -> bool:
    return all(is_finite(ops.convert_to_numpy(v)) for v in model.trainable_variables)


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends training when it diverges, and puts the model back to the end of the last good epoch.

    An epoch ends early when the loss of a batch is NaN or infinite. An epoch has diverged if it
    ended so, or if its loss or a trainable weight is NaN or infinite. Then the state at the end of
    the last good epoch is restored (weights, α, statistics, seeds and optimizers; in the first
    epoch the state at the beginning of `fit`), training stops, and a warning says what to change.
    `keras.callbacks.TerminateOnNaN` leaves the broken weights in the model.

    The loss is `"loss"` of the logs. A model whose `train_step` logs none, such as a GAN, is
    watched by every log whose name ends in `"_loss"`.

    Checking every batch does not slow training down: with TensorFlow, Keras has turned the losses
    into numbers before it calls callbacks; with other backends it calls this one in the background.
    The state is copied to the host's memory once per epoch. Put this callback after
    `AlphaBacktracking`, which takes a step of α back instead as long as it can, and before
    `EpochBackup`, which keeps the last good backup.

    Attributes:
        stopped_epoch: The epoch, counted from 0, in which training diverged; None if it did not.

    Example:
        >>> guard = kbp.StopOnNonFinite()
        >>> branched.fit(train, epochs=20, callbacks=[kbp.AlphaStepDecay(0.1), guard])
        >>> guard.stopped_epoch is None
        True
    """

    async_safe = True
    """Tells Keras that it may call this callback without waiting for the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped_epoch: int | None = None
        self._last_good: Snapshot | None = None
        self._broken_off = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Copies the state that training begins with."""
        self.stopped_epoch = None
        self._broken_off = False
        self._last_good = take_snapshot(self.model)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Breaks the epoch off when its loss is not finite."""
        if not _has_finite_loss(logs or {}):
            self._broken_off = True
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Copies the state if it is good, else restores the last good one and stops."""
        logs = logs or {}
        # `AlphaBacktracking` has put a good state back; the logs are those of the bad epoch.
        rolled_back = bool(logs.get("alpha_rollback"))
        if rolled_back or not (self._broken_off or has_diverged(self.model, logs)):
            self._broken_off = False
            self._last_good = take_snapshot(self.model)
            return
        self._stop(epoch, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Frees the memory of the copy."""
        self._last_good = None

    def _stop(self, epoch: int, logs: Mapping[str, Any]) -> None:
        # Before the restore, which puts α back too.
        alpha = logs.get("alpha", find_alpha(self.model))
        if self._last_good is not None:
            self._last_good.restore(self.model)
        self.stopped_epoch = epoch
        self.model.stop_training = True
        at_alpha = "" if alpha is None else f" at alpha {alpha:.6g}"
        losses = ", ".join(
            f"{value}" if name == "loss" else f"{name} {value}"
            for name, value in _losses(logs).items()
        )
        warnings.warn(
            f"Training diverged in epoch {epoch + 1}{at_alpha}: its loss ({losses}) or a "
            "weight is NaN or infinite. Training has stopped, and the model is in the state of the "
            "last good epoch. Lower the learning rate, take smaller steps of alpha, or clip the "
            "gradients (`clipnorm` of the optimizer).",
            stacklevel=2,
        )
