"""Finds the widths of channel groups that keep a given share of a model's cost.

Two ways: `"uniform"` narrows all groups by the same ratio; `"global"` narrows them where the
error that this causes is smallest for the cost that it saves.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from keras_branch_prune.planning.cost_model import CostModel
from keras_branch_prune.planning.error_curves import Curves, error_curves
from keras_branch_prune.planning.widths import WidthChoices

ALLOCATIONS = ("uniform", "global")

_CLOSE = 0.99
"""The share of the budget that is to be used."""
_BISECTIONS = 40
_STRIDES = 64
"""In how many strides the greedy search takes a group from its full width to none."""


def allocate(
    costs: CostModel,
    choices: Sequence[WidthChoices],
    share: float,
    *,
    allocation: str = "uniform",
    errors: Mapping[str, np.ndarray] | None = None,
) -> dict[str, int]:
    """Returns widths at which the model costs at most, and nearly, a share of what it costs whole.

    Args:
        costs: The cost model.
        choices: The widths that every group to narrow may have; all others keep theirs. If the
            largest of them bring the cost below the share, no group is narrowed further.
        share: The share of the whole model's cost, in (0, 1), which `check_reachable` let pass.
        allocation: One of `ALLOCATIONS`.
        errors: For `"global"`, by group name: the error if k of its channels are kept, shape
            `(channels + 1,)`, never rising with k. Only its lower convex hull counts.

    Returns:
        Group name → width, for all of `choices`. The cost lies in [0.99, 1] of the share wherever
        the steps of the widths are fine enough.

    Raises:
        ValueError: If errors are missing or impossible.
    """
    curves = error_curves(choices, errors) if allocation == "global" else {}
    target = share * costs.whole
    widths = {choice.name: choice.highest for choice in choices}
    if costs.cost(widths) <= target:
        return widths
    if allocation == "uniform":
        return _allocate_uniformly(costs, choices, target)
    return _allocate_globally(costs, choices, target, curves)


def check_reachable(costs: CostModel, choices: Sequence[WidthChoices], share: float) -> None:
    """Raises `ValueError`, with what can be reached, if the smallest widths cost more than that."""
    floor = costs.cost({choice.name: choice.lowest for choice in choices})
    if floor > share * costs.whole:
        # Rounded up, so that the number in the message can be reached.
        lowest = math.ceil(floor / costs.whole * 1e4) / 1e4
        raise ValueError(
            f"`{costs.name}` must be at least {lowest:.4f}: with all selected groups at their "
            f"smallest widths, {_amount(floor)} of {_amount(costs.whole)} are left. "
            f"Received: {share}"
        )


def _amount(cost: float) -> str:
    return f"{cost:,}" if isinstance(cost, int) else f"{cost:,.4g}"


def _allocate_uniformly(
    costs: CostModel, choices: Sequence[WidthChoices], target: float
) -> dict[str, int]:
    """Takes the largest common ratio, rounds down, and gives back what was rounded most."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        fits = costs.cost(_at_ratio(choices, middle)) <= target
        low, high = (middle, high) if fits else (low, middle)

    def order(choice: WidthChoices, width: int, wider: int, cost: float) -> float | None:
        remainder = (choice.channels * low - width) / (wider - width)
        # Once the budget is used, no group goes beyond the ratio.
        return -remainder if remainder > 0 or cost < _CLOSE * target else None

    return _widen(costs, choices, _at_ratio(choices, low), target, order)


def _at_ratio(choices: Sequence[WidthChoices], ratio: float) -> dict[str, int]:
    return {choice.name: choice.at_most(choice.channels * ratio) for choice in choices}


def _allocate_globally(
    costs: CostModel,
    choices: Sequence[WidthChoices],
    target: float,
    curves: Curves,
) -> dict[str, int]:
    """Narrows where a saving costs least error, in strides, and gives back single steps.

    Narrowing a group lowers what narrowing others saves, and errors are convex: the error per
    saving only grows, as `_smallest_first` needs it.
    """
    by_name = {choice.name: choice for choice in choices}
    strides = {c.name: max(1, round(len(c.widths) / _STRIDES)) for c in choices}
    widths = {choice.name: choice.highest for choice in choices}

    def error_per_saving(name: str) -> float | None:
        narrower = by_name[name].narrower(widths[name], strides[name])
        saving = 0.0 if narrower is None else -costs.change(widths, name, narrower)
        if narrower is None or saving <= 0:
            return None
        return (curves[name][narrower] - curves[name][widths[name]]) / saving

    cost = costs.cost(widths)
    for name in _smallest_first(widths, error_per_saving):
        narrower = by_name[name].narrower(widths[name], strides[name])
        assert narrower is not None
        cost += costs.change(widths, name, narrower)
        widths[name] = narrower
        if cost <= target:
            break

    def error_saved(choice: WidthChoices, width: int, wider: int, cost: float) -> float:
        added = costs.change(widths, choice.name, wider)
        saved = curves[choice.name][width] - curves[choice.name][wider]
        return -saved / added if added > 0 else -math.inf

    return _widen(costs, choices, widths, target, error_saved)


def _widen(
    costs: CostModel,
    choices: Sequence[WidthChoices],
    widths: dict[str, int],
    target: float,
    order: Callable[[WidthChoices, int, int, float], float | None],
) -> dict[str, int]:
    """Widens groups step by step, as long as the cost stays within the target.

    Args:
        costs: The cost model.
        choices: The choices of every group.
        widths: The widths to begin with; changed in place.
        target: The cost that must not be exceeded.
        order: Called with the choices, the width, the next width and the cost; the group with the
            smallest value is widened first, one with `None` never again.

    Returns:
        `widths`.
    """
    by_name = {choice.name: choice for choice in choices}
    cost = costs.cost(widths)

    def key(name: str) -> float | None:
        wider = by_name[name].wider(widths[name])
        # As costs rise, a step that does not fit will never fit.
        if wider is None or cost + costs.change(widths, name, wider) > target:
            return None
        return order(by_name[name], widths[name], wider, cost)

    for name in _smallest_first(widths, key):
        wider = by_name[name].wider(widths[name])
        assert wider is not None
        cost += costs.change(widths, name, wider)
        widths[name] = wider
    return widths


def _smallest_first(names: Iterable[str], key: Callable[[str], float | None]) -> Iterator[str]:
    """Yields the name with the smallest key, again and again, while keys change in between.

    A key must never fall, so that an old one is a lower bound (lazy greedy search; Minoux, 1978).

    Args:
        names: The names.
        key: Returns the present key of a name; `None` takes the name out.
    """
    heap = [(-math.inf, name) for name in names]
    heapq.heapify(heap)
    while heap:
        _, name = heapq.heappop(heap)
        present = key(name)
        if present is None:
            continue
        if heap and present > heap[0][0]:
            heapq.heappush(heap, (present, name))
            continue
        yield name
        heapq.heappush(heap, (present, name))
