"""Which step α takes next, judged by the metric of every epoch: numbers only, no model."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_branch_prune.common import require_choice, require_integer, require_number, require_share
from keras_branch_prune.training import improves


class Verdict(enum.Enum):
    """What follows from the metric of an epoch."""

    ACCEPT = "accept"  # Good: keep this state, and take a step down from it.
    FINISH = "finish"  # Good at α = 0: nothing is left to do.
    WAIT = "wait"  # Not good, but it may still become so.
    TAKE_BACK = "take back"  # Failed: back to the last good state, and a smaller step from there.
    GIVE_UP = "give up"  # Failed, and the next step would be too small: go back and stop.


@dataclasses.dataclass
class BacktrackingSearch:
    """Lowers α by steps whose size adapts, and takes back those that cost too much.

    The caller, such as `AlphaBacktracking`, keeps α itself and the state of the model at the last
    good α, and acts on the verdicts.

    Args:
        step_size: What the first step takes off α, in (0, 1].
        max_drop: By how much the metric may be worse than the reference, in the metric's unit, at
            least 0.
        patience: Number of epochs in which the metric must recover from a step, at least 1.
        reference: Value of the metric to compare with; None takes the best one seen while α = 1,
            so that the first step comes after the first epoch that has the metric.
        shrink: What a failed step multiplies the step size by, in (0, 1).
        growth: What a series of successful steps multiplies it by, at least 1; it never exceeds 1.
        successes: Length of such a series, at least 1.
        min_step: Smallest step that is tried, in (0, `step_size`].
        threshold: α at or below this value becomes exactly 0; in [0, 1).
        mode: Whether the metric is to fall (`"min"`) or to rise (`"max"`).

    Attributes:
        step: Size of the next step.
        series: Number of good steps in a row at this size.
        best_at_start: The reference in use; None until there is one.
        good_alpha: α of the last good state; 0 while there is none.
        reached_zero: Whether α = 0 was found good.
        gave_up: Whether the search ended because the next step would be too small.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from keras_branch_prune.alpha import BacktrackingSearch
        >>> search = BacktrackingSearch(step_size=0.2, patience=1, max_drop=0.01)
        >>> search.judge(metric=0.90, alpha=1.0, waited=1)
        (<Verdict.ACCEPT: 'accept'>, 0.8)
        >>> search.judge(metric=0.70, alpha=0.8, waited=1)
        (<Verdict.TAKE_BACK: 'take back'>, 0.9)
    """

    step_size: float = 0.1
    max_drop: float = 0.02
    patience: int = 3
    reference: float | None = None
    shrink: float = 0.5
    growth: float = 2.0
    successes: int = 2
    min_step: float = 0.01
    threshold: float = 0.015
    mode: str = "max"

    step: float = dataclasses.field(init=False, repr=False)
    series: int = dataclasses.field(default=0, init=False, repr=False)
    best_at_start: float | None = dataclasses.field(init=False, repr=False)
    good_alpha: float = dataclasses.field(default=0.0, init=False, repr=False)
    reached_zero: bool = dataclasses.field(default=False, init=False, repr=False)
    gave_up: bool = dataclasses.field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self._require("step_size", lambda x: 0 < x <= 1, "in (0, 1]")
        self._require("max_drop", lambda x: 0 <= x < math.inf, "of at least 0")
        self.shrink = require_share("shrink", self.shrink)
        self._require("growth", lambda x: 1 <= x < math.inf, "of at least 1")
        self._require("min_step", lambda x: 0 < x <= self.step_size, "in (0, step_size]")
        self._require("threshold", lambda x: 0 <= x < 1, "in [0, 1)")
        self.patience = require_integer("patience", self.patience, at_least=1)
        self.successes = require_integer("successes", self.successes, at_least=1)
        if self.reference is not None:
            self.reference = require_number(
                "reference", self.reference, math.isfinite, "a finite number or None"
            )
        require_choice("mode", self.mode, ("min", "max"))
        self.step = self.step_size
        self.best_at_start = self.reference

    def _require(self, name: str, in_range: Callable[[Any], bool], expected: str) -> None:
        value = require_number(name, getattr(self, name), in_range, f"a number {expected}")
        setattr(self, name, value)

    @property
    def worst_tolerated(self) -> float:
        """The worst value of the metric that is good; NaN while there is no reference."""
        reference = math.nan if self.best_at_start is None else self.best_at_start
        return reference + (self.max_drop if self.mode == "min" else -self.max_drop)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: α = 0 was found good, or the search gave up."""
        return self.reached_zero or self.gave_up

    def judge(self, metric: float, alpha: float, waited: int) -> tuple[Verdict, float]:
        """Judges an epoch.

        Args:
            metric: Value of the metric; NaN or infinite where training has diverged, which takes
                the step back at once.
            alpha: α in force during the epoch.
            waited: For how many epochs α has been there, this one included.

        Returns:
            The verdict, and α of the next epoch.
        """
        self.reached_zero = False
        if math.isfinite(metric) and self._is_good(metric, alpha):
            return self._accept(alpha)
        failed = not math.isfinite(metric) or waited >= self.patience
        # At the last good α itself there is nothing to take back: training goes on there.
        if failed and alpha < self.good_alpha:
            return self._take_back(alpha)
        return Verdict.WAIT, alpha

    def restart(self) -> None:
        """Begins anew from the last good α, with steps of the first size, after having given up."""
        self.gave_up = False
        self.step, self.series = self.step_size, 0

    def _is_good(self, metric: float, alpha: float) -> bool:
        """Compares with the reference: the best value so far at α = 1, unless it was given."""
        known = math.nan if self.best_at_start is None else self.best_at_start
        at_start = self.reference is None and alpha == 1
        if self.best_at_start is None or (at_start and improves(metric, known, self.mode)):
            self.best_at_start = metric
        # In float32, as metrics are computed: a drop of exactly `max_drop` is tolerated.
        new, limit = np.float32(metric), np.float32(self.worst_tolerated)
        return bool(new <= limit if self.mode == "min" else new >= limit)

    def _accept(self, alpha: float) -> tuple[Verdict, float]:
        if alpha == 0:
            self.reached_zero, self.good_alpha = True, 0.0
            return Verdict.FINISH, alpha
        if alpha < self.good_alpha:
            self.series += 1
            if self.series == self.successes:
                self.step, self.series = min(self.step * self.growth, 1.0), 0
        self.good_alpha = alpha
        return Verdict.ACCEPT, self._below(alpha, self.step)

    def _take_back(self, failed: float) -> tuple[Verdict, float]:
        self.step, self.series = self.step * self.shrink, 0
        # The last step, to 0, is shorter than the step size: half of that may lead to 0 again.
        while self.step >= self.min_step and self._below(self.good_alpha, self.step) == failed:
            self.step *= self.shrink
        if self.step < self.min_step:
            self.gave_up = True
            return Verdict.GIVE_UP, self.good_alpha
        return Verdict.TAKE_BACK, self._below(self.good_alpha, self.step)

    def _below(self, alpha: float, step: float) -> float:
        # Seven digits are what float32, in which α is kept, holds: 0.3 − 0.1 is 0.2 here.
        value = round(alpha - step, 7)
        return 0.0 if value <= self.threshold else value
