"""Schedules of α: pure functions of an integer step."""

from __future__ import annotations

import abc
import dataclasses
import enum
import fractions
import math

from keras_branch_prune.common import (
    require_integer,
    require_number,
    require_positive,
    require_share,
)

# The `Alpha` layer keeps the step in an int32 variable.
_MAX_STEPS = 2**31 - 1


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

    A schedule does not know when a step is due: `AlphaCallback` takes one every epoch, every so
    many epochs or batches, or when a metric has stalled; your own training loop may take it at any
    time. It holds no state, so that α at a step is the same number however it was reached.

    Subclasses implement `decay`, which must never rise. All take `threshold` by name, and raise if
    an argument is out of range.

    Args:
        threshold: α at or below this value becomes exactly 0; in [0, 1).

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> schedule = keras_branch_prune.StepDecay(step_size=0.25)
        >>> [schedule(step) for step in range(schedule.steps_to_zero + 1)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    threshold: float = dataclasses.field(default=0.015, kw_only=True)

    def __post_init__(self) -> None:
        """Checks the fields; subclasses extend it."""
        require_number("threshold", self.threshold, lambda x: 0 <= x < 1, "a number in [0, 1)")

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
        number = require_integer("step", step, at_least=0)
        if number == 0:
            return 1.0
        value = self.decay(number)
        # Not `value > 1`: NaN must be refused too.
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
        # A schedule never rises: doubling finds a step at 0, and bisection the first one.
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
    """

    step_size: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("step_size", self.step_size, lambda x: 0 < x <= 1, "a number in (0, 1]")

    def decay(self, step: int) -> float:
        """Returns `1 − step·step_size`, computed in exact decimals."""
        # 0.1 means a tenth here, not the binary fraction next to it: 1 − 7·0.1 is 0.3.
        return float(1 - step * fractions.Fraction(repr(float(self.step_size))))


@dataclasses.dataclass(frozen=True)
class ExponentialDecay(AlphaSchedule):
    """`α = exp(−rate·step)`.

    Args:
        rate: Decay rate per step, greater than 0.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("rate", self.rate)

    def decay(self, step: int) -> float:
        """Returns `exp(−rate·step)`."""
        return math.exp(-self.rate * step)


@dataclasses.dataclass(frozen=True)
class MultiplicativeDecay(AlphaSchedule):
    """`α = factor ** step`.

    Args:
        factor: What one step multiplies α by, in (0, 1).
    """

    factor: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share("factor", self.factor)

    def decay(self, step: int) -> float:
        """Returns `factor ** step`."""
        return self.factor**step


@dataclasses.dataclass(frozen=True)
class LinearDecay(AlphaSchedule):
    """`α = 1 − step / steps`.

    Args:
        steps: The step at which α is 0, at least 1; it is 0 earlier where it falls to `threshold`.
    """

    steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("steps", self.steps, at_least=1, at_most=_MAX_STEPS)

    def decay(self, step: int) -> float:
        """Returns `1 − step / steps`."""
        return (self.steps - step) / self.steps


@dataclasses.dataclass(frozen=True)
class CosineDecay(AlphaSchedule):
    """`α = (1 + cos(π·step / steps)) / 2`: slow at both ends (SGDR, Loshchilov & Hutter, 2017).

    Args:
        steps: The step at which α is 0, at least 1; it is 0 earlier where it falls to `threshold`.
    """

    steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("steps", self.steps, at_least=1, at_most=_MAX_STEPS)

    def decay(self, step: int) -> float:
        """Returns `(1 + cos(π·step / steps)) / 2`, and 0 after `steps`."""
        return 0.5 * (1 + math.cos(math.pi * min(step, self.steps) / self.steps))
