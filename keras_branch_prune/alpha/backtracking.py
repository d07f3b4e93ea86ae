"""Adaptive decay of α: steps that cost too much are taken back and tried again smaller."""

from __future__ import annotations

import math
import warnings
from typing import Any

import keras

from keras_branch_prune.alpha.backtracking_search import BacktrackingSearch, Verdict
from keras_branch_prune.common import require
from keras_branch_prune.layers import Alpha, alpha_layer, read_alpha, read_scalar
from keras_branch_prune.training import (
    Snapshot,
    has_diverged,
    improves,
    report_missing,
    resolve_mode,
    take_snapshot,
)


class AlphaBacktracking(keras.callbacks.Callback):
    """Lowers α by steps whose size adapts, and takes back those that cost too much.

    After an epoch whose metric is within `max_drop` of the reference, the state is copied (weights,
    α, statistics, seeds and optimizers, to the host's memory) and α takes a step down. If the
    metric does not come back within `max_drop` in `patience` epochs, the copy is restored and a
    smaller step is tried. A NaN or infinite loss, metric or weight takes the step back at once, and
    training goes on even if `keras.callbacks.TerminateOnNaN` or `StopOnNonFinite` stopped it for
    that. The last step, to α = 0, is judged in the same way; after it the callback does nothing
    more.

    If the next step would be below `min_step`, the last good state is restored, training stops, and
    a warning says what was reached. A later `fit` then tries again, beginning with `step_size`.

    The logs get `alpha` and `alpha_step`, α and the step size in force during the epoch, and
    `alpha_rollback`, 1 if a step was taken back at its end. The `Alpha` layer counts the steps that
    were not taken back. Restoring the optimizer also restores its learning rate. To end training
    once α = 0 was found good, add `StopAtAlphaZero(decay)` with this callback as `decay`. To resume
    a killed run, name it in `EpochBackup(folder, callbacks=…)`. Use one callback per model.

    Args:
        step_size: What the first step takes off α, in (0, 1].
        monitor: Name of the metric in the epoch's logs.
        mode: Whether the metric is to fall (`"min"`) or to rise (`"max"`); `"auto"` tells from its
            name.
        verbose: 1 prints every step, 0 nothing.
        **options: Other arguments of `BacktrackingSearch`: `max_drop`, `patience`, `reference`,
            `shrink`, `growth`, `successes`, `min_step`, `threshold`.

    Attributes:
        search: The numbers of the search.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> decay = keras_branch_prune.AlphaBacktracking(0.2, max_drop=0.01, patience=5)
        >>> branched.fit(train, validation_data=validation, epochs=100, callbacks=[decay])
        >>> compact = keras_branch_prune.merge(branched)  # if `decay.finished`
    """

    def __init__(
        self,
        step_size: float = 0.1,
        *,
        monitor: str = "val_accuracy",
        mode: str = "auto",
        verbose: int = 0,
        **options: Any,
    ):
        super().__init__()
        named = isinstance(monitor, str) and monitor != ""
        require(named, "monitor", monitor, "the name of a metric")
        self.monitor = monitor
        self.search = BacktrackingSearch(step_size, mode=resolve_mode(monitor, mode), **options)
        self.verbose = verbose
        self._good: Snapshot | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: α = 0 has been reached and found good, or `gave_up`."""
        return self.search.finished

    @property
    def gave_up(self) -> bool:
        """Whether the last `fit` ended because no step was small enough."""
        return self.search.gave_up

    def get_state(self) -> dict[str, Any]:
        """Returns what `EpochBackup` saves: the step size, the reference, the last good state."""
        # These names are in backups of version 0.1.0 too.
        return {
            "finished": self.search.reached_zero,
            "gave_up": self.search.gave_up,
            "reference": self.search.best_at_start,
            "step": self.search.step,
            "series": self.search.series,
            "good": self._good and self._good.get_state(),
            "good_alpha": self.search.good_alpha,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over the state of another callback; a `reference` given to this one stays."""
        search, good = self.search, state["good"]
        self._good = good and Snapshot.from_state(good)
        search.reached_zero, search.gave_up = state["finished"], state["gave_up"]
        search.step, search.series = state["step"], state["series"]
        search.good_alpha = state["good_alpha"] if good else 0.0
        search.best_at_start = state["reference"] if search.reference is None else search.reference

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuses to begin below α = 1 without a reference; begins anew after having given up."""
        alpha = read_alpha(alpha_layer(self.model))
        if self.search.best_at_start is None and 0 < alpha < 1:
            raise ValueError(
                "`reference` must be given where training begins below alpha = 1 (or the state of "
                "this callback restored, by `EpochBackup(folder, callbacks=…)`). "
                f"Received: reference=None at alpha {alpha:.6g}"
            )
        if self.search.best_at_start is None and alpha == 0:
            self.search.reached_zero = True
        if self.search.gave_up:
            self.search.restart()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs α, and takes a step, waits, or takes the last step back."""
        logs = {} if logs is None else logs
        layer = alpha_layer(self.model)
        alpha = read_alpha(layer)
        logs.update({"alpha": alpha, "alpha_step": self.search.step, "alpha_rollback": 0.0})
        if self.search.gave_up or (self.search.reached_zero and alpha == 0):
            return
        metric = float(logs.get(self.monitor, 0.0))
        diverged = not math.isfinite(metric) or has_diverged(self.model, logs)
        if not diverged and self.monitor not in logs:
            report_missing(self.monitor, logs, waiting="alpha")
            return
        if not diverged:
            _count_epoch(layer, metric, self.search.mode)
        waited = int(read_scalar(layer.wait))
        verdict, target = self.search.judge(math.nan if diverged else metric, alpha, waited)
        reached = logs.get(self.monitor, math.nan) if diverged else read_scalar(layer.best)
        logs["alpha_rollback"] = float(verdict in (Verdict.TAKE_BACK, Verdict.GIVE_UP))
        self._follow(verdict, target, layer, float(reached))
        if diverged and verdict is Verdict.TAKE_BACK:
            # Another callback may have stopped training for the NaN, which was just taken back.
            self.model.stop_training = False

    def _follow(self, verdict: Verdict, target: float, layer: Alpha, reached: float) -> None:
        """Acts on a verdict; `reached` is the best value of the metric at this α."""
        alpha = read_alpha(layer)
        if verdict in (Verdict.ACCEPT, Verdict.FINISH):
            _restart_count(layer)
            self._good = take_snapshot(self.model) if verdict is Verdict.ACCEPT else None
        elif verdict is not Verdict.WAIT:
            assert self._good is not None
            self._good.restore(self.model)
            self._print(f"alpha: {alpha:.6g} -> {read_alpha(layer):.6g} (taken back)")
        if verdict is Verdict.FINISH:
            self._print("alpha: 0 is good")
        elif verdict is Verdict.GIVE_UP:
            self._give_up(alpha, reached)
        elif verdict is not Verdict.WAIT:
            self._descend(layer, target)

    def _descend(self, layer: Alpha, target: float) -> None:
        old = read_alpha(layer)
        layer.alpha.assign(target)
        layer.step.assign(int(read_scalar(layer.step)) + 1)
        _restart_count(layer)
        step = self.search.step
        self._print(f"alpha: {old:.6g} -> {read_alpha(layer):.6g} (step of {step:.6g})")

    def _give_up(self, failed: float, reached: float) -> None:
        search = self.search
        self.model.stop_training = True
        warnings.warn(
            f"Training stopped with the last good state, at alpha {search.good_alpha:.6g}: at "
            f"alpha {failed:.6g}, {self.monitor} reached {reached:.6g} where "
            f"{search.worst_tolerated:.6g} was needed, and the next step would be smaller than "
            f"min_step={search.min_step:g}. Allow a larger `max_drop`, more `patience` or a "
            "smaller `min_step`, change the learning rate, or prune less.",
            stacklevel=3,
        )

    def _print(self, message: str) -> None:
        if self.verbose:
            print(f"\n{message}")


def _count_epoch(layer: Alpha, metric: float, mode: str) -> None:
    layer.wait.assign(int(read_scalar(layer.wait)) + 1)
    if improves(metric, read_scalar(layer.best), mode):
        layer.best.assign(metric)


def _restart_count(layer: Alpha) -> None:
    layer.wait.assign(0)
    layer.best.assign(math.nan)
