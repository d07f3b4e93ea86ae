"""Callbacks that raise the learning rate: at a plateau, and once α has become 0."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_branch_prune.common import (
    require,
    require_integer,
    require_number,
    require_number_up_to,
    require_positive,
)
from keras_branch_prune.layers import find_alpha, read_scalar
from keras_branch_prune.training.monitors import improves, report_missing, resolve_mode
from keras_branch_prune.training.snapshot import build_optimizer


class _LearningRateCallback(keras.callbacks.Callback):
    """Reads and sets the learning rate, or those of the parts of a `MultiOptimizer`.

    `initial` holds the rates at the beginning of the first `fit`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.initial: list[float] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Notes the rates and checks that they can be set."""
        build_optimizer(self.model)
        rates = self._rates()
        if self.initial is None:
            self.initial = rates
        # An optimizer that follows a schedule gives its rate and refuses a new one.
        try:
            self._set_rates(rates)
        except (AttributeError, TypeError) as error:
            raise TypeError(
                "The optimizer must have been created with a float `learning_rate`, so that "
                f"{type(self).__name__} can set it. Received: a `LearningRateSchedule` or callable"
            ) from error

    def _optimizers(self) -> list[Any]:
        optimizer = self.model.optimizer
        return list(getattr(optimizer, "optimizers", None) or [optimizer])

    def _rates(self) -> list[float]:
        return [read_scalar(optimizer.learning_rate) for optimizer in self._optimizers()]

    def _set_rates(self, rates: list[float]) -> None:
        for optimizer, rate in zip(self._optimizers(), rates, strict=True):
            optimizer.learning_rate = rate

    def _log_rates(self, logs: dict[str, Any]) -> list[float]:
        """Logs the rates under the names that Keras' callbacks use, and returns them."""
        rates, optimizers = self._rates(), self._optimizers()
        multiple = hasattr(self.model.optimizer, "optimizers")
        for optimizer, rate in zip(optimizers, rates, strict=True):
            logs[f"learning_rate_{optimizer.name}" if multiple else "learning_rate"] = rate
        return rates


class IncreaseLROnPlateau(_LearningRateCallback):
    """Raises the learning rate when a metric has stalled, and lets it fall again.

    To leave a local minimum, the rate jumps to `factor` times the initial one and then decays
    exponentially, back to the initial one in `decay_epochs` epochs. With an initial rate of 0.001,
    `factor=10` and `decay_epochs=2` it is 0.01, then 0.0032, then 0.001. If something else, such as
    `keras.callbacks.ReduceLROnPlateau`, sets it below the initial rate before or meanwhile, it
    decays to that lower rate. `logs["learning_rate"]` is the rate in force during the epoch.

    The initial rate is that at the beginning of the first `fit`. State is kept between calls of
    `fit`, and by `EpochBackup(folder, callbacks=…)`; use one callback per model.

    Args:
        monitor: Name of the metric in the epoch's logs.
        factor: How many times the initial rate the raised one is, greater than 1.
        patience: Number of epochs without improvement before the rate is raised, at least 0.
        decay_epochs: Number of epochs in which the raised rate falls back, at least 1.
        mode: Whether the metric is to fall (`"min"`) or to rise (`"max"`); `"auto"` decides by its
            name.
        min_delta: Smallest change of the metric that counts as an improvement, at least 0.
        cooldown: Number of epochs after a raise before waiting goes on, at least 0, counted as
            `keras.callbacks.ReduceLROnPlateau` does; None for `decay_epochs`.
        max_lr: The raised rate never exceeds this, greater than 0; None for no limit.
        verbose: 1 prints every raise, 0 nothing.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: In `fit`, if the optimizer follows a `LearningRateSchedule`.

    Example:
        >>> raise_rate = kbp.IncreaseLROnPlateau(factor=5, patience=8)
        >>> branched.fit(train, validation_data=validation, epochs=100, callbacks=[raise_rate])
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 10.0,
        patience: int = 10,
        *,
        decay_epochs: int = 5,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int | None = None,
        max_lr: float | None = None,
        verbose: int = 0,
    ):
        super().__init__()
        named = isinstance(monitor, str) and monitor != ""
        require(named, "monitor", monitor, "the name of a metric")
        self.monitor = monitor
        self.factor = require_number(
            "factor", factor, lambda x: 1 < x < math.inf, "a finite number above 1"
        )
        self.patience = require_integer("patience", patience, at_least=0)
        self.decay_epochs = require_integer("decay_epochs", decay_epochs, at_least=1)
        self.mode = resolve_mode(monitor, mode)
        self.min_delta = require_number(
            "min_delta", min_delta, lambda x: 0 <= x < math.inf, "a finite number of at least 0"
        )
        if cooldown is None:
            cooldown = self.decay_epochs
        self.cooldown = require_integer("cooldown", cooldown, at_least=0)
        if max_lr is not None:
            max_lr = require_number("max_lr", max_lr, lambda x: x > 0, "a number above 0 or None")
        self.max_lr = math.inf if max_lr is None else max_lr
        self.verbose = verbose
        self._targets: list[float] = []
        self._decaying = 0
        self._cooling = 0
        self._wait = 0
        self._best = math.nan

    def get_state(self) -> dict[str, Any]:
        """Returns what `EpochBackup` saves: the initial rates, and what is being counted."""
        return {
            "initial": self.initial,
            "targets": self._targets,
            "decaying": self._decaying,
            "cooling": self._cooling,
            "wait": self._wait,
            "best": self._best,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over the state of another callback."""
        self.initial = state["initial"]
        self._targets = state["targets"]
        self._decaying = state["decaying"]
        self._cooling = state["cooling"]
        self._wait = state["wait"]
        self._best = state["best"]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the rate, and lowers or raises it if that is due."""
        logs = {} if logs is None else logs
        rates = self._log_rates(logs)
        if self._decaying:
            self._decay(rates)
        if self.monitor not in logs:
            report_missing(self.monitor, logs, waiting="the learning rate")
        elif self._has_stalled(float(logs[self.monitor])):
            self._raise_rates()

    def _decay(self, rates: list[float]) -> None:
        """Takes the rates one epoch closer to their targets, wherever they are now."""
        self._targets = [min(t, rate) for t, rate in zip(self._targets, rates, strict=True)]
        # Of the way that is left, as another callback may have changed the rates meanwhile.
        share = (self._decaying - 1) / self._decaying
        # A straight line in the logarithm of the rate.
        self._set_rates(
            [t ** (1 - share) * rate**share for t, rate in zip(self._targets, rates, strict=True)]
        )
        self._decaying -= 1

    def _has_stalled(self, metric: float) -> bool:
        """Counts as `keras.callbacks.ReduceLROnPlateau` does."""
        if self._cooling:
            self._cooling -= 1
            self._wait = 0
        if improves(metric, self._best, self.mode, self.min_delta):
            self._best = metric
            self._wait = 0
        elif not self._cooling:
            self._wait += 1
            return self._wait >= self.patience
        return False

    def _raise_rates(self) -> None:
        # Each rate of a `MultiOptimizer` jumps by the factor, and none is ever lowered by it.
        initial, rates = self.initial or [], self._rates()
        raised = [min(self.factor * rate, self.max_lr) for rate in initial]
        if not any(new > old for new, old in zip(raised, rates, strict=True)):
            return
        # A raise during a decay keeps the targets of that decay.
        bases = self._targets if self._decaying else initial
        self._targets = [min(base, rate) for base, rate in zip(bases, rates, strict=True)]
        self._set_rates([max(new, old) for new, old in zip(raised, rates, strict=True)])
        self._decaying, self._cooling, self._wait = self.decay_epochs, self.cooldown, 0
        if self.verbose:
            print(f"\nlearning rate: {rates} -> {self._rates()}")


class RewindLearningRate(_LearningRateCallback):
    """Sets the learning rate back once α has become 0, and lets it fall along a cosine again.

    Retraining a pruned network with the learning rates of its original training gains more than
    fine-tuning it with the last, small rate ("Comparing rewinding and fine-tuning in neural network
    pruning", Renda, Frankle & Carbin, 2020).

    While α > 0 this callback leaves the rate as it is. In the first epoch that begins with α = 0
    the rate is `learning_rate`, and n epochs later it is
    `learning_rate · (f + (1 − f) · (1 + cos(π·n / epochs)) / 2)`, where f is `final_factor`. After
    `epochs` epochs it stays at `f · learning_rate`. With a model that has no `Alpha` layer, such as
    a merged one, this begins with the first epoch. What other callbacks do to the rate at the end
    of an epoch is overwritten. If α rises again, the count starts again at its next 0.
    `logs["learning_rate"]` is the rate in force during the epoch. State is kept between calls of
    `fit`, and by `EpochBackup(folder, callbacks=…)`; use one callback per model.

    Args:
        epochs: Number of epochs in which the rate falls, at least 1.
        learning_rate: The rate to begin with, greater than 0; None for the rate at the beginning of
            the first `fit`.
        final_factor: The share of it that is left in the end, in [0, 1].
        verbose: 1 prints when the rate is set back, 0 nothing.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: In `fit`, if the optimizer follows a `LearningRateSchedule`.

    Example:
        >>> compact.compile("adam", "sparse_categorical_crossentropy")
        >>> rewind = kbp.RewindLearningRate(30, learning_rate=1e-3)
        >>> compact.fit(train, epochs=30, callbacks=[rewind])
    """

    def __init__(
        self,
        epochs: int,
        *,
        learning_rate: float | None = None,
        final_factor: float = 0.0,
        verbose: int = 0,
    ):
        super().__init__()
        self.epochs = require_integer("epochs", epochs, at_least=1)
        if learning_rate is not None:
            learning_rate = require_positive("learning_rate", learning_rate)
        self.learning_rate = learning_rate
        self.final_factor = require_number_up_to("final_factor", final_factor, at_most=1)
        self.verbose = verbose
        self._epochs_done = 0
        self._started = False

    def get_state(self) -> dict[str, Any]:
        """Returns what `EpochBackup` saves: the initial rates, and the epochs done since."""
        return {"initial": self.initial, "epochs_done": self._epochs_done}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over the state of another callback."""
        self.initial = state["initial"]
        self._epochs_done = state["epochs_done"]

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the rate of the epoch if α is 0."""
        # α is 0, or there is none.
        self._started = not find_alpha(self.model)
        if not self._started:
            self._epochs_done = 0
            return
        # Along the cosine from 1 at the first epoch to `final_factor` after `epochs` epochs.
        position = min(self._epochs_done / self.epochs, 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * position))
        factor = self.final_factor + (1 - self.final_factor) * cosine
        self._set_rates([factor * rate for rate in self._first_rates()])
        if self.verbose and self._epochs_done == 0:
            print(f"\nlearning rate: set back to {self._rates()}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the rate and counts the epoch."""
        self._log_rates({} if logs is None else logs)
        self._epochs_done += self._started

    def _first_rates(self) -> list[float]:
        initial = self.initial or []
        return initial if self.learning_rate is None else [self.learning_rate] * len(initial)
