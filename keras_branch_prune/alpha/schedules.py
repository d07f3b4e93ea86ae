"""Schedules of α: pure functions of an integer step, usable without Keras."""

from __future__ import annotations

import abc
import dataclasses
import enum
import fractions
import math
import numbers
import operator
from collections.abc import Callable
from typing import Any

_MAX_STEPS = 2**31 - 1  # The step is kept in an int32 variable.


class ScheduleType(enum.Enum):
    """The ways in which α can fall, e.g. for `absl.flags.DEFINE_enum_class`."""

    STEP = "step"
    EXPONENTIAL = "exponential"
    MULTIPLICATIVE = "multiplicative"
    LINEAR = "linear"
    COSINE = "cosine"
    REDUCE_ON_PLATEAU = "reduce_on_plateau"


@dataclasses.dataclass(frozen=True)
class AlphaSchedule(abc.ABC):
    """Maps the number of decay steps taken so far to α, from 1 at step 0 down to 0.

    A schedule holds no state, so that α at a step is the same number however it was reached.
    Subclasses implement `decay`, which must never rise.

    Args:
        threshold: α at or below this value becomes exactly 0; in [0, 1).

    Raises:
        ValueError: If `threshold` is out of range.

    Example:
        >>> schedule = kbp.StepDecay(step_size=0.25)
        >>> [schedule(step) for step in range(schedule.steps_to_zero + 1)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    threshold: float = dataclasses.field(default=0.015, kw_only=True)

    def __post_init__(self) -> None:
        """Validates the fields; subclasses extend it."""
        _require_number("threshold", self.threshold, lambda x: 0 <= x < 1, "a number in [0, 1)")

    @abc.abstractmethod
    def decay(self, step: int) -> float:
        """Returns α at `step ≥ 1` before the snap to 0; may fall below 0."""

    def __call__(self, step: int) -> float:
        """Returns α after `step` decay steps, in [0, 1].

        Args:
            step: Number of steps taken, an integer ≥ 0.

        Returns:
            Exactly 1 at step 0, exactly 0 where the decay is at or below `threshold`.

        Raises:
            ValueError: If `step` is not such an integer, or `decay` returned more than 1.
        """
        number = _as_int(step)
        if number is None or number < 0:
            raise ValueError(f"`step` must be an integer of at least 0. Received: step={step!r}")
        if number == 0:
            return 1.0
        value = self.decay(number)
        if not value <= 1.0:
            raise ValueError(
                f"`{type(self).__name__}.decay` must return at most 1. "
                f"Received: decay({step})={value!r}"
            )
        return 0.0 if value <= self.threshold else float(value)

    @property
    def steps_to_zero(self) -> int:
        """The first step at which α is 0.

        Raises:
            ValueError: If α does not get there within 2³¹ − 1 steps.
        """
        high = 1
        while self(high) > 0:
            if high == _MAX_STEPS:
                raise ValueError(
                    f"The schedule must reach 0 within {_MAX_STEPS} steps. Received: {self!r}"
                )
            high = min(2 * high, _MAX_STEPS)
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self(middle) > 0 else (low, middle)
        return high


@dataclasses.dataclass(frozen=True)
class StepDecay(AlphaSchedule):
    """`α = 1 − step·step_size`.

    Args:
        step_size: What one step takes off α, in (0, 1].
        threshold: α at or below this value becomes exactly 0; in [0, 1).

    Raises:
        ValueError: If an argument is out of range.
    """

    step_size: float = 0.1

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        _require_number("step_size", self.step_size, lambda x: 0 < x <= 1, "a number in (0, 1]")

    def decay(self, step: int) -> float:
        """Returns `1 − step·step_size`, computed in exact decimals."""
        # 0.1 means a tenth here, not the binary fraction next to it: 1 − 7·0.1 is 0.3.
        return float(1 - step * fractions.Fraction(repr(float(self.step_size))))


@dataclasses.dataclass(frozen=True)
class ExponentialDecay(AlphaSchedule):
    """`α = exp(−rate·step)`.

    Args:
        rate: Decay rate per step, greater than 0.
        threshold: α at or below this value becomes exactly 0; in [0, 1).

    Raises:
        ValueError: If an argument is out of range.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        _require_number("rate", self.rate, lambda x: 0 < x < math.inf, "a finite number above 0")

    def decay(self, step: int) -> float:
        """Returns `exp(−rate·step)`."""
        return math.exp(-self.rate * step)


@dataclasses.dataclass(frozen=True)
class MultiplicativeDecay(AlphaSchedule):
    """`α = factor ** step`.

    Args:
        factor: What one step multiplies α by, in (0, 1).
        threshold: α at or below this value becomes exactly 0; in [0, 1).

    Raises:
        ValueError: If an argument is out of range.
    """

    factor: float = 0.7

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        _require_number("factor", self.factor, lambda x: 0 < x < 1, "a number in (0, 1)")

    def decay(self, step: int) -> float:
        """Returns `factor ** step`."""
        return self.factor**step


@dataclasses.dataclass(frozen=True)
class LinearDecay(AlphaSchedule):
    """`α = 1 − step / steps`.

    Args:
        steps: Step at which α is 0 (earlier, where α falls to `threshold` before), at least 1.
        threshold: α at or below this value becomes exactly 0; in [0, 1).

    Raises:
        ValueError: If an argument is out of range.
    """

    steps: int = 10

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        _require_steps(self.steps)

    def decay(self, step: int) -> float:
        """Returns `1 − step / steps`."""
        return (self.steps - step) / self.steps


@dataclasses.dataclass(frozen=True)
class CosineDecay(AlphaSchedule):
    """`α = (1 + cos(π·step / steps)) / 2`: slow at both ends (SGDR, Loshchilov & Hutter, 2017).

    Args:
        steps: Step at which α is 0 (earlier, where α falls to `threshold` before), at least 1.
        threshold: α at or below this value becomes exactly 0; in [0, 1).

    Raises:
        ValueError: If an argument is out of range.
    """

    steps: int = 10

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        _require_steps(self.steps)

    def decay(self, step: int) -> float:
        """Returns `(1 + cos(π·step / steps)) / 2`, and 0 after `steps`."""
        return 0.5 * (1 + math.cos(math.pi * min(step, self.steps) / self.steps))


def _as_int(value: object) -> int | None:
    """Returns `value` as an integer, or None if it is a bool or no integer."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _require_number(
    name: str, value: object, in_range: Callable[[Any], bool], expected: str
) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not in_range(value):
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def _require_steps(steps: object) -> None:
    number = _as_int(steps)
    if number is None or not 1 <= number <= _MAX_STEPS:
        raise ValueError(
            f"`steps` must be an integer in [1, {_MAX_STEPS}]. Received: steps={steps!r}"
        )
