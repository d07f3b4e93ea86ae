"""Tells of a metric that a callback watches which way is better, and whether it has improved."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_branch_prune.common import require_choice

# Names of metrics, or their last words; a trailing number is Keras' mark of a repeated name.
_MINIMISED = re.compile(
    r"(^|_)(loss|error|crossentropy|divergence|poisson|hinge|logcosh|perplexity"
    r"|mse|rmse|mae|mape|msle)(_\d+)?$"
)
_MAXIMISED = re.compile(
    r"(^|_)(acc|accuracy|auc|precision|recall|f1_score|fbeta_score|r2_score|cosine_similarity"
    r"|iou|io_u)(_\d+)?$"
)

_OUR_OWN = {"alpha", "alpha_step", "alpha_rollback", "learning_rate"}


def resolve_mode(monitor: str | None, mode: str) -> str:
    """Returns whether a metric is to fall or to rise.

    Example:
        >>> from keras_branch_prune.training import resolve_mode
        >>> resolve_mode("val_accuracy", "auto")
        'max'

    Args:
        monitor: Name of the metric in the epoch's logs; None for none.
        mode: `"min"`, `"max"` or `"auto"`, which decides by the name.

    Returns:
        `"min"` or `"max"`; `mode` itself without a metric.

    Raises:
        ValueError: If `mode` is another one, or is `"auto"` and the name is not a known metric's.
    """
    require_choice("mode", mode, ("auto", "min", "max"))
    if not monitor or mode != "auto":
        return mode
    name = monitor.removeprefix("val_")
    if _MINIMISED.search(name):
        return "min"
    if _MAXIMISED.search(name):
        return "max"
    raise ValueError(
        f"`mode` must be 'min' or 'max' for monitor={monitor!r}, whose name does not tell whether "
        "it is to fall or to rise. Received: mode='auto'"
    )


def improves(current: float, best: float, mode: str, min_delta: float = 0.0) -> bool:
    """Returns whether a metric's value is better than the best one so far.

    Args:
        current: The new value; NaN is never better.
        best: The best value so far; NaN if there is none.
        mode: `"min"` or `"max"`.
        min_delta: Smallest change that counts.

    Returns:
        Whether `current` is better than `best` by more than `min_delta`.
    """
    if math.isnan(current) or math.isnan(best):
        return not math.isnan(current)
    # `Alpha` keeps `best` in float32: the same value in float64 might look better by rounding.
    new, old, delta = np.float32(current), np.float32(best), np.float32(min_delta)
    return bool(new + delta < old) if mode == "min" else bool(new - delta > old)


def report_missing(monitor: str, logs: Mapping[str, Any], waiting: str) -> None:
    """Warns that an epoch had no validation, or raises if the metric does not exist.

    Args:
        monitor: Name of a metric that is not in `logs`.
        logs: The epoch's logs.
        waiting: What waits for the metric; the warning begins with it.

    Raises:
        ValueError: If the metric would be missing with validation, too.
    """
    available = sorted(set(logs) - _OUR_OWN)
    # With `validation_freq=2` every other epoch lacks the metric; that is no mistake.
    validated = any(name.startswith("val_") for name in available)
    if validated or not monitor.startswith("val_"):
        raise ValueError(
            f"`monitor` must be one of the logged metrics {available}. "
            f"Received: monitor={monitor!r}"
        )
    warnings.warn(
        f"{waiting} waits for monitor={monitor!r}, but this epoch had no validation: "
        "pass `validation_data` to `fit` (expected with `validation_freq` > 1). "
        f"Logged: {available}",
        stacklevel=3,
    )
