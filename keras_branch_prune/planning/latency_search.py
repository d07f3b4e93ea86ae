"""Finds how much of a model to keep for a measured latency.

Latency does not follow from parameters or MACs: it is measured, and what is kept is corrected until
the measurement fits.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_branch_prune.benchmarking import benchmark
from keras_branch_prune.common import require_integer, require_number, require_share

_SHORTEST_STEP = 1e-3
"""The search ends where the next cost share differs by less than this share from a measured one."""
_WIDEST_STEP = 3.0
"""The most that a cost share is divided by at once."""

Point = tuple[float, float]
"""A cost share and the latency share measured there."""


@dataclasses.dataclass(frozen=True)
class LatencySearch:
    """How a latency was looked for.

    Args:
        target: The share of the original's latency that was asked for.
        tolerance: How far from it, relative to it, a latency may be.
        measured: Cost share and latency share of every compact model that was measured.
    """

    target: float
    tolerance: float
    measured: tuple[Point, ...]

    @property
    def cost_share(self) -> float:
        """The cost share whose latency is nearest to the target."""
        return min(self.measured, key=self._miss)[0]

    @property
    def latency_share(self) -> float:
        """The latency share that is nearest to the target."""
        return min(self.measured, key=self._miss)[1]

    @property
    def met(self) -> bool:
        """Whether that latency is within the tolerance."""
        return min(map(self._miss, self.measured)) <= self.tolerance

    def _miss(self, point: Point) -> float:
        return abs(point[1] / self.target - 1)


def latency_share(
    original: keras.Model, compact: keras.Model, batch_size: int = 1, **options: Any
) -> float:
    """Returns the compact model's latency as a share of the original's, on the CPU.

    Args:
        original: The original model.
        compact: The compact model.
        batch_size: Samples per call.
        **options: Other arguments of `benchmark`, such as `threads`.
    """
    models = {"original": original, "compact": compact}
    result = benchmark(models, [batch_size], devices=["cpu"], peak=False, **options)
    return 1 / result.speedup(batch_size, device="cpu")


def share_of_milliseconds(
    original: keras.Model, milliseconds: float, batch_size: int = 1, **options: Any
) -> float:
    """Returns a latency as a share of the original's, which is measured on the CPU.

    Args:
        original: The original model.
        milliseconds: Latency per sample, ms: the time of a call / `batch_size`, as `benchmark`
            counts it.
        batch_size: Samples per call.
        **options: Other arguments of `benchmark`, such as `threads`.

    Raises:
        ValueError: If the original is not slower than that.
    """
    result = benchmark({"original": original}, [batch_size], devices=["cpu"], peak=False, **options)
    whole = result.variants[0].timing(batch_size, "cpu").p50_ms
    if not 0 < milliseconds < whole:
        raise ValueError(
            f"`latency` must be positive and below that of '{original.name}', {whole:.3g} ms per "
            f"sample at batch size {batch_size}. Received: {milliseconds} ms"
        )
    return milliseconds / whole


def meet_latency(
    make_compact: Callable[[float], keras.Model],
    original: keras.Model,
    target: float,
    *,
    measure: Callable[[keras.Model, keras.Model], float] = latency_share,
    lowest: float = 0.0,
    tolerance: float = 0.05,
    measurements: int = 6,
) -> LatencySearch:
    """Looks for the cost share at which a compact model has a share of the original's latency.

    The first guess is the target itself; every further one lies on the line through the two
    measurements next to the target (secant steps).

    Args:
        make_compact: Returns the compact model for a cost share in (0, 1).
        original: The original model.
        target: The share of the original's latency to meet, in (0, 1).
        measure: Returns the latency share, given the original and a compact model; bind batch size
            and threads with `functools.partial(latency_share, …)`.
        lowest: The smallest cost share that `make_compact` can be asked for.
        tolerance: How far from the target, relative to it, the latency may be.
        measurements: The largest number of measurements.

    Returns:
        The measurements, among them the nearest; `met` is false if the target takes more of them,
        or less than the lowest cost share.

    Raises:
        ValueError: If `target`, `lowest` or `measurements` is out of its range.
    """
    require_share("target", target)
    require_number("lowest", lowest, lambda x: 0 <= x < 1, "a number in [0, 1)")
    require_integer("measurements", measurements, at_least=1)
    search = LatencySearch(target, tolerance, ())
    cost_share = max(target, lowest)
    for _ in range(measurements):
        share = measure(original, make_compact(cost_share))
        search = dataclasses.replace(search, measured=(*search.measured, (cost_share, share)))
        if search.met:
            break
        # The original itself is a measurement that costs nothing.
        cost_share = max(lowest, _next_cost_share([*search.measured, (1.0, 1.0)], target))
        if any(abs(cost_share / known - 1) < _SHORTEST_STEP for known, _ in search.measured):
            break
    return search


def _next_cost_share(points: Sequence[Point], target: float) -> float:
    """Returns the cost share where a line through two measurements meets the target.

    They are those on both sides of the target; if all are above it, the two lowest, whose line is
    followed no further than to a third of the smallest cost share.
    """
    points = sorted(points, key=lambda point: point[::-1])
    for below, above in itertools.pairwise(points):
        if below[1] <= target < above[1]:
            return _find_crossing(below, above, target)
    first, second = points[:2]
    shortest = min(cost_share for cost_share, _ in points) / _WIDEST_STEP
    # Noise of the measurement, or costs that no longer lower the latency: the line leads nowhere.
    if first[0] >= second[0] or first[1] == second[1]:
        return shortest
    return max(shortest, _find_crossing(first, second, target))


def _find_crossing(one: Point, other: Point, target: float) -> float:
    slope = (other[0] - one[0]) / (other[1] - one[1])
    return one[0] + (target - one[1]) * slope
