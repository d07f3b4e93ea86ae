"""Adaptive decay of α: steps that cost too much are taken back and tried again smaller."""

from __future__ import annotations

import math
import warnings
from typing import Any

import keras
import numpy as np

from keras_branch_prune.common import require_integer, require_number
from keras_branch_prune.layers import Alpha, alpha_layer, alpha_of, value_of
from keras_branch_prune.training import (
    Snapshot,
    direction,
    has_diverged,
    improves,
    report_missing,
    take,
)


class AlphaBacktracking(keras.callbacks.Callback):
    """Lowers α by steps whose size adapts, and takes back those that cost too much.

    After an epoch whose metric is within `max_drop` of the reference, the state is copied (weights,
    α, statistics, seeds and optimizers, to the host's memory) and α takes a step down. A step has
    `patience` epochs to get there; otherwise the copy is restored and a smaller step is tried. A
    NaN or infinite loss, metric or weight takes the step back at once, and lets training go on
    though `keras.callbacks.TerminateOnNaN` or `StopOnNonFinite` has broken the epoch off. The last
    step, to α = 0, must prove itself in the same way; then the callback does nothing more.

    If a step below `min_step` would be next, the last good state is restored, training stops, and a
    warning says what was reached. A later `fit` then tries again, beginning with `step_size`.

    Logged are `alpha` and `alpha_step`, α and the step size in force during the epoch, and
    `alpha_rollback`, 1 if a step was taken back at its end. The `Alpha` layer counts the steps that
    were not taken back. Restoring the optimizer also restores its learning rate. `StopAtAlphaZero`
    would stop before α = 0 has proved itself; look at `finished` instead. To resume a killed run,
    name this callback in `EpochBackup(folder, callbacks=…)`. Use one callback per model.

    Args:
        step_size: What the first step takes off α, in (0, 1].
        monitor: Name of the metric in the epoch's logs.
        max_drop: By how much the metric may be worse than the reference, in the metric's unit, at
            least 0.
        patience: Number of epochs that a step may take to recover, at least 1.
        reference: Value of the metric to compare with; None takes the best one seen while α = 1,
            so that the first step comes after the first epoch that has the metric.
        shrink: What a failed step multiplies the step size by, in (0, 1).
        growth: What a series of successful steps multiplies it by, at least 1; it never exceeds 1.
        successes: Length of such a series, at least 1.
        min_step: Smallest step that is tried, in (0, `step_size`].
        threshold: α at or below this value becomes exactly 0; in [0, 1).
        mode: Whether the metric is to fall (`"min"`) or to rise (`"max"`); `"auto"` tells from its
            name.
        verbose: 1 prints every step, 0 nothing.

    Attributes:
        finished: Whether α = 0 has been reached and found good.
        gave_up: Whether the last `fit` ended because no step was small enough.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> decay = kbp.AlphaBacktracking(0.2, max_drop=0.01, patience=5)
        >>> branched.fit(train, validation_data=validation, epochs=100, callbacks=[decay])
        >>> compact = kbp.merge(branched)  # if `decay.finished`
    """

    def __init__(
        self,
        step_size: float = 0.1,
        *,
        monitor: str = "val_accuracy",
        max_drop: float = 0.02,
        patience: int = 3,
        reference: float | None = None,
        shrink: float = 0.5,
        growth: float = 2.0,
        successes: int = 2,
        min_step: float = 0.01,
        threshold: float = 0.015,
        mode: str = "auto",
        verbose: int = 0,
    ):
        super().__init__()
        if not isinstance(monitor, str) or not monitor:
            raise ValueError(f"`monitor` must name a metric. Received: monitor={monitor!r}")
        self.step_size = _within("step_size", step_size, lambda x: 0 < x <= 1, "in (0, 1]")
        self.monitor = monitor
        self.max_drop = _within("max_drop", max_drop, lambda x: 0 <= x < math.inf, "of at least 0")
        self.patience = require_integer("patience", patience, at_least=1)
        if reference is not None:
            reference = require_number(
                "reference", reference, math.isfinite, "a finite number or None"
            )
        self.reference = reference
        self.shrink = _within("shrink", shrink, lambda x: 0 < x < 1, "in (0, 1)")
        self.growth = _within("growth", growth, lambda x: 1 <= x < math.inf, "of at least 1")
        self.successes = require_integer("successes", successes, at_least=1)
        self.min_step = _within(
            "min_step", min_step, lambda x: 0 < x <= self.step_size, "in (0, step_size]"
        )
        self.threshold = _within("threshold", threshold, lambda x: 0 <= x < 1, "in [0, 1)")
        self.mode = direction(monitor, mode)
        self.verbose = verbose
        self.finished = False
        self.gave_up = False
        self._reference = reference
        self._step = self.step_size
        self._series = 0
        self._good: Snapshot | None = None
        self._good_alpha = 0.0

    def get_state(self) -> dict[str, Any]:
        """Returns what `EpochBackup` saves: the step size, the reference, the last good state."""
        return {
            "finished": self.finished,
            "gave_up": self.gave_up,
            "reference": self._reference,
            "step": self._step,
            "series": self._series,
            "good": self._good and self._good.get_state(),
            "good_alpha": self._good_alpha,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over the state of another callback; a `reference` given to this one stays."""
        self.finished = state["finished"]
        self.gave_up = state["gave_up"]
        self._reference = state["reference"] if self.reference is None else self.reference
        self._step = state["step"]
        self._series = state["series"]
        self._good = state["good"] and Snapshot.from_state(state["good"])
        self._good_alpha = state["good_alpha"]

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuses a model that it cannot judge; begins anew after having given up."""
        alpha = alpha_of(alpha_layer(self.model))
        if self._reference is None and 0 < alpha < 1:
            raise ValueError(
                "`reference` must be given where training begins below alpha = 1 (or the state of "
                "this callback restored, by `EpochBackup(folder, callbacks=…)`). "
                f"Received: reference=None at alpha {alpha:.6g}"
            )
        if self._reference is None and alpha == 0:
            self.finished = True
        if self.gave_up:
            self.gave_up = False
            self._step, self._series = self.step_size, 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs α, and takes a step, waits, or takes the last step back."""
        logs = {} if logs is None else logs
        layer = alpha_layer(self.model)
        alpha = alpha_of(layer)
        logs.update({"alpha": alpha, "alpha_step": self._step, "alpha_rollback": 0.0})
        self.finished = self.finished and alpha == 0
        if self.finished or self.gave_up:
            return
        metric = float(logs.get(self.monitor, 0.0))
        if not math.isfinite(metric) or has_diverged(self.model, logs):
            self._take_back_if_possible(layer, alpha, logs, diverged=True)
        elif self.monitor not in logs:
            report_missing(self.monitor, logs, waiting="alpha")
        elif self._is_good(metric, alpha):
            self._accept(layer, alpha)
        else:
            self._wait(layer, metric)
            if value_of(layer.wait) >= self.patience:
                self._take_back_if_possible(layer, alpha, logs)

    def _is_good(self, metric: float, alpha: float) -> bool:
        """Compares with the reference, which is the best value at α = 1 unless it was given."""
        known = math.nan if self._reference is None else self._reference
        at_start = self.reference is None and alpha == 1
        if self._reference is None or (at_start and improves(metric, known, self.mode)):
            self._reference = metric
        # In float32, as metrics are computed: a drop of exactly `max_drop` is tolerated.
        new, limit = np.float32(metric), np.float32(self._worst_tolerated())
        return bool(new <= limit if self.mode == "min" else new >= limit)

    def _worst_tolerated(self) -> float:
        reference = math.nan if self._reference is None else self._reference
        return reference + (self.max_drop if self.mode == "min" else -self.max_drop)

    def _accept(self, layer: Alpha, alpha: float) -> None:
        """Keeps the state as the last good one and takes a step, unless α is 0."""
        _restart_count(layer)
        if alpha == 0:
            self.finished = True
            self._good = None
            self._print("alpha: 0 is good")
            return
        if self._step_is_under_trial(alpha):
            self._series += 1
            if self._series == self.successes:
                self._step, self._series = min(self._step * self.growth, 1.0), 0
        self._good, self._good_alpha = take(self.model), alpha
        self._descend(layer)

    def _wait(self, layer: Alpha, metric: float) -> None:
        layer.wait.assign(int(value_of(layer.wait)) + 1)
        if improves(metric, value_of(layer.best), self.mode):
            layer.best.assign(metric)

    def _step_is_under_trial(self, alpha: float) -> bool:
        return self._good is not None and alpha < self._good_alpha

    def _take_back_if_possible(
        self, layer: Alpha, alpha: float, logs: dict[str, Any], diverged: bool = False
    ) -> None:
        if self._good is None or not self._step_is_under_trial(alpha):
            return
        reached = logs.get(self.monitor, math.nan) if diverged else value_of(layer.best)
        self._good.restore(self.model)
        logs["alpha_rollback"] = 1.0
        self._step, self._series = self._smaller_step(alpha), 0
        self._print(f"alpha: {alpha:.6g} -> {self._good_alpha:.6g} (taken back)")
        if self._step < self.min_step:
            self._give_up(alpha, float(reached))
            return
        if diverged:
            # Whoever has broken the epoch off for its loss: the reason is gone.
            self.model.stop_training = False
        self._descend(layer)

    def _smaller_step(self, failed: float) -> float:
        """Returns the step to try next, from the last good α, after the one to `failed`."""
        step = self._step * self.shrink
        # The last step, to 0, is shorter than the step size: half of that may lead to 0 again.
        while step >= self.min_step and self._below(self._good_alpha, step) == failed:
            step *= self.shrink
        return step

    def _below(self, alpha: float, step: float) -> float:
        value = round(alpha - step, 7)
        return 0.0 if value <= self.threshold else value

    def _descend(self, layer: Alpha) -> None:
        old = alpha_of(layer)
        layer.alpha.assign(self._below(old, self._step))
        layer.step.assign(int(value_of(layer.step)) + 1)
        _restart_count(layer)
        self._print(f"alpha: {old:.6g} -> {alpha_of(layer):.6g} (step of {self._step:.6g})")

    def _give_up(self, failed: float, reached: float) -> None:
        self.gave_up = True
        self.model.stop_training = True
        warnings.warn(
            f"Training stopped with the last good state, at alpha {self._good_alpha:.6g}: at alpha "
            f"{failed:.6g}, {self.monitor} reached {reached:.6g} where "
            f"{self._worst_tolerated():.6g} was needed, and the next step would be smaller than "
            f"min_step={self.min_step:g}. Allow a larger `max_drop`, more `patience` or a smaller "
            "`min_step`, change the learning rate, or prune less.",
            stacklevel=3,
        )

    def _print(self, message: str) -> None:
        if self.verbose:
            print(f"\n{message}")


def _within(name: str, value: Any, in_range: Any, expected: str) -> float:
    return require_number(name, value, in_range, f"a number {expected}")


def _restart_count(layer: Alpha) -> None:
    layer.wait.assign(0)
    layer.best.assign(math.nan)
