"""Callbacks that decide when α takes its next step."""

from __future__ import annotations

import itertools
import math
from typing import Any

import keras
import numpy as np

from keras_branch_prune.alpha import schedules
from keras_branch_prune.common import require, require_choice, require_integer, require_number_up_to
from keras_branch_prune.layers import Alpha, alpha_layer, get_alpha, read_alpha, read_scalar
from keras_branch_prune.training import improves, report_missing, resolve_mode


class AlphaCallback(keras.callbacks.Callback):
    """Lets α fall along a schedule, one step whenever a step is due.

    By default a step is due after every epoch; with `every` and `unit`, after so many epochs or
    batches. With `monitor`, a step is due when that metric has not improved for `patience` epochs
    at the current α, counted as `keras.callbacks.EarlyStopping` does; NaN is never an improvement.

    `logs["alpha"]` is the α in force during the epoch, which the progress bar, `History` and
    `CSVLogger` show. With `unit="batch"` the logs of a batch have it too, and those of the epoch
    have the last one, which validation used. All state lives in variables of the model: a killed
    training goes on where it was through a `keras.callbacks.BackupAndRestore` placed *after* this
    callback, and a second `fit` continues the first. With `compile(steps_per_execution=N)`, α
    changes at most once per N batches, but by all the steps that are due.

    Args:
        schedule: α as a function of the step.
        every: Number of epochs or batches per step, at least 1; only without `monitor`.
        unit: What `every` counts: `"epoch"` or `"batch"`.
        monitor: Name of the metric in the epoch's logs, e.g. `"val_loss"`.
        patience: Number of epochs without improvement before a step, at least 0; only used with
            `monitor`.
        mode: Whether the metric is to fall (`"min"`) or to rise (`"max"`); `"auto"` tells from its
            name.
        min_delta: Smallest change of the metric that counts as an improvement, at least 0.
        verbose: 1 prints every step, 0 nothing.

    Raises:
        ValueError: If an argument is out of range, or arguments contradict each other.

    Example:
        >>> callback = kbp.AlphaCallback(kbp.CosineDecay(steps=500), unit="batch")
        >>> branched.fit(train, epochs=10, callbacks=[callback])
    """

    def __init__(
        self,
        schedule: schedules.AlphaSchedule,
        *,
        every: int = 1,
        unit: str = "epoch",
        monitor: str | None = None,
        patience: int = 10,
        mode: str = "auto",
        min_delta: float = 0.0,
        verbose: int = 0,
    ):
        super().__init__()
        is_schedule = isinstance(schedule, schedules.AlphaSchedule)
        require(is_schedule, "schedule", schedule, "an AlphaSchedule")
        require_choice("unit", unit, ("epoch", "batch"))
        if monitor is not None and (unit != "epoch" or every != 1):
            raise ValueError(
                "`monitor` cannot be combined with `every` or `unit='batch'`: a step is due when "
                "the metric has stalled. "
                f"Received: monitor={monitor!r}, every={every}, unit={unit!r}"
            )
        self.schedule = schedule
        self.every = require_integer("every", every, at_least=1)
        self.unit = unit
        self.monitor = monitor
        self.patience = require_integer("patience", patience, at_least=0)
        self.mode = resolve_mode(monitor, mode)
        self.min_delta = require_number_up_to("min_delta", min_delta, at_most=math.inf)
        self.verbose = verbose
        self._first_batch = 0

    @property
    def async_safe(self) -> bool:
        """Whether Keras may go on before a batch's results are there: no step is due at batches."""
        return self.unit == "epoch"

    @property
    def finished(self) -> bool:
        """Whether α of the model is 0, so that nothing is left to do; False without a model."""
        return self.model is not None and get_alpha(self.model) == 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuses a model that is not branched; resets nothing."""
        alpha_layer(self.model)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes which batch an execution of `steps_per_execution` batches begins with."""
        self._first_batch = batch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs α and takes the steps that are due, where batches are counted."""
        if self.unit != "batch":
            return
        layer = self._log_alpha(logs)
        # Counted from its first batch: Keras versions differ in which one they name at its end.
        elapsed = self.model.steps_per_execution
        steps = (self.params or {}).get("steps")
        if steps is not None:
            # The last execution of an epoch may have fewer batches.
            elapsed = min(elapsed, steps - self._first_batch)
        if read_alpha(layer) > 0:
            self._take_steps(layer, self._count(layer, elapsed))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs α and takes the step that is due, if any."""
        logs = {} if logs is None else logs
        layer = self._log_alpha(logs)
        if self.unit != "epoch" or read_alpha(layer) == 0:
            return
        due = self._count(layer, 1) if self.monitor is None else self._stalled(layer, logs)
        self._take_steps(layer, int(due))

    def _log_alpha(self, logs: dict[str, Any] | None) -> Alpha:
        # On JAX, reading `self.model` copies the trained state into the variables, and without it
        # an assignment is lost: so the layer is looked up every time.
        layer = alpha_layer(self.model)
        if logs is not None:
            logs["alpha"] = read_alpha(layer)
        return layer

    def _count(self, layer: Alpha, elapsed: int) -> int:
        """Counts epochs or batches; returns the number of steps that have become due."""
        due, wait = divmod(int(read_scalar(layer.wait)) + elapsed, self.every)
        layer.wait.assign(wait)
        return due

    def _stalled(self, layer: Alpha, logs: dict[str, Any]) -> bool:
        """Compares the metric with its best value at this α; returns whether a step is due."""
        monitor = str(self.monitor)
        if monitor not in logs:
            report_missing(monitor, logs, waiting="alpha")
            return False
        current = float(logs[monitor])
        improved = improves(current, read_scalar(layer.best), self.mode, self.min_delta)
        if improved:
            layer.best.assign(current)
        wait = 0 if improved else int(read_scalar(layer.wait)) + 1
        layer.wait.assign(wait)
        return not improved and wait >= self.patience

    def _take_steps(self, layer: Alpha, count: int) -> None:
        """Takes `count` steps down the schedule and forgets the best value of the metric."""
        if count == 0:
            return
        old = read_alpha(layer)
        step = self._next_step(int(read_scalar(layer.step)), old) + count - 1
        layer.step.assign(step)
        layer.alpha.assign(self.schedule(step))
        if self.monitor is not None:
            layer.best.assign(math.nan)
            layer.wait.assign(0)
        if self.verbose:
            print(f"\nalpha: {old:.6g} -> {read_alpha(layer):.6g} (step {step})")

    def _next_step(self, step: int, alpha: float) -> int:
        """Returns the step after `step` or, if α has left the schedule, the first one below α."""
        # `set_alpha` may have moved α. Compared in float32, in which it is kept.
        if np.float32(self.schedule(step)) == np.float32(alpha):
            return step + 1
        lower = (s for s in itertools.count(1) if np.float32(self.schedule(s)) < np.float32(alpha))
        return next(lower)


class StopAtAlphaZero(keras.callbacks.Callback):
    """Ends training when α has reached 0: merged, the compact model trains on at less cost.

    Put it after the α callback.

    Args:
        decay: The α callback, whose `finished` says whether it is done: `AlphaBacktracking` is only
            when the metric at α = 0 was good. `None` stops as soon as α is 0.

    Raises:
        ValueError: If `decay` is no α callback.

    Example:
        >>> decay = kbp.AlphaBacktracking(0.1)
        >>> callbacks = [decay, kbp.StopAtAlphaZero(decay)]
        >>> branched.fit(train, validation_data=validation, epochs=100, callbacks=callbacks)
    """

    def __init__(self, decay: keras.callbacks.Callback | None = None):
        super().__init__()
        known = decay is None or hasattr(decay, "finished")
        require(known, "decay", decay, "an α callback or None")
        self._decay = decay

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops after the epoch at whose end nothing was left to do."""
        done = get_alpha(self.model) == 0 if self._decay is None else self._decay.finished
        if done:
            self.model.stop_training = True
