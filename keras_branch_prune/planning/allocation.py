"""Finds the widths of channel groups that keep a given share of a model's cost.

Two ways: `"uniform"` narrows all groups by the same ratio; `"global"` narrows first where the error
that this causes is smallest for the cost that it saves.
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

_LEAST_USE = 0.99
"""The share of the budget that is to be used at least."""
_BISECTIONS = 40
_STRIDES_PER_GROUP = 64
"""The number of strides in which the greedy search narrows a group from its full width to none."""

Step = tuple[float, int]
"""The rank of a group's next step (the smallest is taken first), and the width after it."""


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
            largest of them bring the cost below the share, they are what is returned.
        share: The share of the whole model's cost, in (0, 1), which `check_reachable` let pass.
        allocation: One of `ALLOCATIONS`.
        errors: For `"global"`, by group name: entry k is the error if k of its channels are kept,
            shape `(channels + 1,)`, never rising with k. Only the lower convex hull counts.

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
    """Raises `ValueError`, which names the smallest share, if the smallest widths cost more."""
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
    """Rounds widths down at the largest common ratio, and widens those that were rounded most."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        fits = costs.cost(_widths_at(choices, middle)) <= target
        low, high = (middle, high) if fits else (low, middle)

    def rank(choice: WidthChoices, width: int, wider: int, cost: float) -> float | None:
        remainder = (choice.channels * low - width) / (wider - width)
        # Once the budget is used, no group goes beyond the ratio.
        return -remainder if remainder > 0 or cost < _LEAST_USE * target else None

    return _widen(costs, choices, _widths_at(choices, low), target, rank)


def _widths_at(choices: Sequence[WidthChoices], ratio: float) -> dict[str, int]:
    return {choice.name: choice.at_most(choice.channels * ratio) for choice in choices}


def _allocate_globally(
    costs: CostModel, choices: Sequence[WidthChoices], target: float, curves: Curves
) -> dict[str, int]:
    """Narrows, again and again, the group that loses least per saving; then widens single steps."""
    by_name = {choice.name: choice for choice in choices}
    # A group of 512 channels goes 8 at a time: every new width has to be costed, which takes time.
    # The last stride may save too much, by what `_widen` then has to spend.
    strides = {c.name: max(1, round(len(c.widths) / _STRIDES_PER_GROUP)) for c in choices}
    widths = {choice.name: choice.highest for choice in choices}

    def narrow(name: str) -> Step | None:
        narrower = by_name[name].narrower(widths[name], strides[name])
        if narrower is None or (saving := -costs.change(widths, name, narrower)) <= 0:
            return None
        # Narrowing one group lowers what narrowing its neighbours saves, and the curves are
        # convex: this quotient never falls, as `_smallest_first` needs it.
        return (curves[name][narrower] - curves[name][widths[name]]) / saving, narrower

    cost = costs.cost(widths)
    for name, narrower in _smallest_first(widths, narrow):
        cost += costs.change(widths, name, narrower)
        widths[name] = narrower
        if cost <= target:
            break

    def rank(choice: WidthChoices, width: int, wider: int, cost: float) -> float:
        added = costs.change(widths, choice.name, wider)
        gained = curves[choice.name][width] - curves[choice.name][wider]
        return -gained / added if added > 0 else -math.inf

    return _widen(costs, choices, widths, target, rank)


def _widen(
    costs: CostModel,
    choices: Sequence[WidthChoices],
    widths: dict[str, int],
    target: float,
    rank: Callable[[WidthChoices, int, int, float], float | None],
) -> dict[str, int]:
    """Widens groups step by step, as long as the cost stays within the target.

    Args:
        costs: The cost model.
        choices: The choices of every group.
        widths: The widths to begin with; changed in place.
        target: The cost that must not be exceeded.
        rank: Called with a group's choices, its width, the next width and the cost; the group with
            the smallest value is widened first, one with `None` never again.

    Returns:
        `widths`.
    """
    by_name = {choice.name: choice for choice in choices}
    cost = costs.cost(widths)

    def widen(name: str) -> Step | None:
        wider = by_name[name].wider(widths[name])
        # As costs rise, a step that does not fit will never fit.
        if wider is None or cost + costs.change(widths, name, wider) > target:
            return None
        value = rank(by_name[name], widths[name], wider, cost)
        return None if value is None else (value, wider)

    for name, wider in _smallest_first(widths, widen):
        cost += costs.change(widths, name, wider)
        widths[name] = wider
    return widths


def _smallest_first(
    names: Iterable[str], next_step: Callable[[str], Step | None]
) -> Iterator[tuple[str, int]]:
    """Yields group and width of the step with the smallest rank, again and again.

    The caller takes each step, which changes the ranks of other groups. A rank must never fall: an
    old one is then a lower bound, and only the group at the top of the heap needs a new one (lazy
    greedy search; Minoux, 1978).

    Args:
        names: The names of the groups.
        next_step: Returns the next step of a group as things are; `None` takes the group out.
    """
    heap = [(-math.inf, name) for name in names]
    heapq.heapify(heap)
    while heap:
        _, name = heapq.heappop(heap)
        step = next_step(name)
        if step is None:
            continue
        rank, width = step
        if not heap or rank <= heap[0][0]:
            yield name, width
        heapq.heappush(heap, (rank, name))
