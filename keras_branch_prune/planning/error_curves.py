"""The error that narrowing a channel group causes, as a convex function of its width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from keras_branch_prune.planning.widths import WidthChoices

Curves = Mapping[str, Mapping[int, float]]
"""Channel group name → width → error."""


def error_curves(
    choices: Sequence[WidthChoices], errors: Mapping[str, np.ndarray] | None
) -> Curves:
    """Returns the lower convex hull of every group's errors, at the widths there are to choose.

    Between two corners of the hull, every step costs the mean of the steps there. So a search that
    looks one step ahead is not stopped by a single expensive step with cheap ones behind it: errors
    of 9, 9, 0, 0 at widths 1 to 4 become 9, 4.5, 0, 0.

    Args:
        choices: The choices of every group.
        errors: By group name, the error if k of its channels are kept, shape `(channels + 1,)`.

    Raises:
        ValueError: If errors are missing, negative, not finite, or rise with the width.
    """
    if errors is None:
        raise ValueError("`errors` must be given for global allocation. Received: None")
    return {choice.name: _make_curve(choice, errors) for choice in choices}


def _make_curve(choice: WidthChoices, errors: Mapping[str, np.ndarray]) -> dict[int, float]:
    if choice.name not in errors:
        raise ValueError(
            f"`errors` must have an entry for group '{choice.name}'. Received: {sorted(errors)}"
        )
    curve = np.asarray(errors[choice.name], np.float64)
    valid = curve.shape == (choice.channels + 1,) and bool(np.isfinite(curve).all())
    if not valid or curve[-1] < 0 or np.any(np.diff(curve) > 0):
        raise ValueError(
            f"`errors['{choice.name}']` must be {choice.channels + 1} non-negative numbers that "
            f"never rise. Received: {curve.shape} numbers, {curve}"
        )
    widths = np.array(choice.widths)
    hull = lower_hull(widths, curve[widths])
    return dict(zip(choice.widths, hull.tolist(), strict=True))


def lower_hull(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the lower convex hull of points, at every `x` (Andrew's monotone chain, 1979).

    Args:
        x: Ascending, shape `(n,)`.
        y: Shape `(n,)`.
    """
    corners: list[int] = []
    for index in range(len(x)):
        while len(corners) > 1 and not _turns_up(x, y, corners[-2], corners[-1], index):
            corners.pop()
        corners.append(index)
    return np.interp(x, x[corners], y[corners])


def _turns_up(x: np.ndarray, y: np.ndarray, first: int, middle: int, last: int) -> bool:
    """Whether the middle point lies below the line through the two others."""
    rise = (y[middle] - y[first]) * (x[last] - x[first])
    return bool(rise < (y[last] - y[first]) * (x[middle] - x[first]))
