"""The callbacks of the schedules: α falls during `fit`."""

from __future__ import annotations

from typing import Any

from keras_branch_prune.alpha import schedules
from keras_branch_prune.alpha.callbacks import AlphaCallback
from keras_branch_prune.common import require


class AlphaStepDecay(AlphaCallback):
    """Lowers α by `step_size` whenever a step is due.

    Args:
        step_size: What one step takes off α, in (0, 1].
        **options: `threshold`, see `AlphaSchedule`, and the arguments of `AlphaCallback`.

    Example:
        >>> callback = keras_branch_prune.AlphaStepDecay(0.1, monitor="val_loss", patience=25)
        >>> branched.fit(train, validation_data=validation, epochs=500, callbacks=[callback])
    """

    def __init__(self, step_size: float = 0.1, *, threshold: float = 0.015, **options: Any):
        super().__init__(schedules.StepDecay(step_size, threshold=threshold), **options)


class AlphaExponentialDecay(AlphaCallback):
    """Lets α follow `exp(−rate·step)`.

    Args:
        rate: Decay rate per step, greater than 0.
        **options: `threshold`, see `AlphaSchedule`, and the arguments of `AlphaCallback`.

    Example:
        >>> decay = keras_branch_prune.AlphaExponentialDecay(1.0)
        >>> [round(decay.schedule(step), 3) for step in range(6)]
        [1.0, 0.368, 0.135, 0.05, 0.018, 0.0]
    """

    def __init__(self, rate: float = 0.5, *, threshold: float = 0.015, **options: Any):
        super().__init__(schedules.ExponentialDecay(rate, threshold=threshold), **options)


class AlphaMultiplicativeDecay(AlphaCallback):
    """Multiplies α by `factor` whenever a step is due.

    Args:
        factor: What one step multiplies α by, in (0, 1).
        **options: `threshold`, see `AlphaSchedule`, and the arguments of `AlphaCallback`.

    Example:
        >>> decay = keras_branch_prune.AlphaMultiplicativeDecay(0.5, threshold=0.1)
        >>> [decay.schedule(step) for step in range(5)]
        [1.0, 0.5, 0.25, 0.125, 0.0]
    """

    def __init__(self, factor: float = 0.7, *, threshold: float = 0.015, **options: Any):
        super().__init__(schedules.MultiplicativeDecay(factor, threshold=threshold), **options)


class AlphaLinearDecay(AlphaCallback):
    """Lets α fall linearly to 0 in `steps` steps.

    Args:
        steps: The number of steps in which α falls from 1 to 0, at least 1: epochs, unless `every`,
            `unit` or `monitor` make a step something else.
        **options: `threshold`, see `AlphaSchedule`, and the arguments of `AlphaCallback`.

    Example:
        >>> decay = keras_branch_prune.AlphaLinearDecay(steps=4)
        >>> branched.compile("adam", "sparse_categorical_crossentropy")
        >>> history = branched.fit(images, labels, epochs=5, callbacks=[decay], verbose=0)
        >>> history.history["alpha"]
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    def __init__(self, steps: int = 10, *, threshold: float = 0.015, **options: Any):
        super().__init__(schedules.LinearDecay(steps, threshold=threshold), **options)


class AlphaCosineDecay(AlphaCallback):
    """Lets α fall to 0 in `steps` steps along half a cosine wave, slowly at both ends.

    Args:
        steps: The number of steps in which α falls from 1 to 0, at least 1: epochs, unless `every`,
            `unit` or `monitor` make a step something else.
        **options: `threshold`, see `AlphaSchedule`, and the arguments of `AlphaCallback`.

    Example:
        >>> decay = keras_branch_prune.AlphaCosineDecay(steps=4)
        >>> [round(decay.schedule(step), 3) for step in range(5)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    def __init__(self, steps: int = 10, *, threshold: float = 0.015, **options: Any):
        super().__init__(schedules.CosineDecay(steps, threshold=threshold), **options)


class AlphaReduceOnPlateau(AlphaCallback):
    """Multiplies α by `factor` whenever a metric has stalled.

    Args:
        factor: What one step multiplies α by, in (0, 1).
        monitor: Name of the metric in the epoch's logs.
        patience: Number of epochs without improvement before a step, at least 0.
        **options: `threshold`, see `AlphaSchedule`, and the arguments of `AlphaCallback`.

    Example:
        >>> decay = keras_branch_prune.AlphaReduceOnPlateau(0.5, "loss", patience=2)
        >>> branched.compile("adam", "sparse_categorical_crossentropy")
        >>> history = branched.fit(images, labels, epochs=2, callbacks=[decay], verbose=0)
        >>> history.history["alpha"]
        [1.0, 1.0]
    """

    def __init__(
        self,
        factor: float = 0.5,
        monitor: str = "val_loss",
        patience: int = 10,
        *,
        threshold: float = 0.015,
        **options: Any,
    ):
        require(monitor is not None, "monitor", monitor, "the name of a metric")
        schedule = schedules.MultiplicativeDecay(factor, threshold=threshold)
        super().__init__(schedule, monitor=monitor, patience=patience, **options)


_CALLBACKS: dict[schedules.ScheduleType, type[AlphaCallback]] = {
    schedules.ScheduleType.STEP: AlphaStepDecay,
    schedules.ScheduleType.EXPONENTIAL: AlphaExponentialDecay,
    schedules.ScheduleType.MULTIPLICATIVE: AlphaMultiplicativeDecay,
    schedules.ScheduleType.LINEAR: AlphaLinearDecay,
    schedules.ScheduleType.COSINE: AlphaCosineDecay,
    schedules.ScheduleType.REDUCE_ON_PLATEAU: AlphaReduceOnPlateau,
}


def make_alpha_callback(
    schedule: schedules.ScheduleType, parameter: float | None = None, **options: Any
) -> AlphaCallback:
    """Returns the α callback of a schedule type, e.g. from command-line flags.

    Args:
        schedule: Which callback.
        parameter: Its first argument: `step_size`, `rate`, `factor` or `steps` (20.0 will do for
            20, as flags of floats give it); None takes the default.
        **options: Its other arguments.

    Returns:
        The callback.

    Raises:
        ValueError: If an argument is out of range, or arguments contradict each other.

    Example:
        >>> make_alpha_callback(keras_branch_prune.ScheduleType.COSINE, 20, every=5).schedule
        CosineDecay(threshold=0.015, steps=20)
    """
    require(schedule in _CALLBACKS, "schedule", schedule, "a ScheduleType")
    if isinstance(parameter, float) and parameter.is_integer():
        parameter = int(parameter)
    arguments = () if parameter is None else (parameter,)
    return _CALLBACKS[schedule](*arguments, **options)
