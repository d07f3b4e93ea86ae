"""From a target to the widths that meet it."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_branch_prune.analysis import Analysis, ChannelGroup
from keras_branch_prune.benchmarking import latency_cost, layer_latencies
from keras_branch_prune.branching import select_channels
from keras_branch_prune.planning.allocation import ALLOCATIONS, allocate, check_reachable
from keras_branch_prune.planning.cost_model import CostModel
from keras_branch_prune.planning.latency_search import LatencySearch, latency_share, meet_latency
from keras_branch_prune.planning.targets import Latency, Record, check_ratios
from keras_branch_prune.planning.widths import ROUNDING, WidthChoices, nearest_width, width_choices
from keras_branch_prune.saliency import Ranking


@dataclasses.dataclass(frozen=True, eq=False)
class WidthSearch:
    """Turns a target into widths.

    Args:
        analysis: The channel groups of the model.
        groups: Those to narrow.
        target: "width", "params", "macs" or "latency".
        value: Its value, see `one_target`.
        allocation: How a budget is spread, see `allocate`.
        round_to: What widths are multiples of.
        floors: Smallest widths by group.
        ceilings: Largest widths by group.

    Raises:
        ValueError: If an argument is out of its range, names a wrong group, limits contradict each
            other, or parameters or MACs cannot become as few.
    """

    analysis: Analysis
    groups: Sequence[ChannelGroup]
    target: str
    value: Any
    allocation: str = "uniform"
    round_to: int | None = None
    floors: Mapping[str, int] = dataclasses.field(default_factory=dict)
    ceilings: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.allocation not in ALLOCATIONS:
            raise ValueError(
                f"`allocation` must be one of {ALLOCATIONS}. Received: {self.allocation!r}"
            )
        if isinstance(self.value, Mapping):
            check_ratios(self.value, self.analysis, self.groups)
        choices = self._choices()
        if self.target in ("params", "macs"):
            check_reachable(CostModel(self.analysis, self.target), choices, self.value)

    def widths(self, model: keras.Model, ranking: Ranking) -> tuple[dict[str, int], Record]:
        """Returns the width of every group, and what else was found out.

        Args:
            model: The model.
            ranking: The channels of the groups, ranked.

        Raises:
            ValueError: If the target cannot be reached.
        """
        if self.target == "width":
            pairs = zip(self.groups, self._choices(), strict=True)
            return {group.name: self._at_ratio(group, choice) for group, choice in pairs}, ()
        if self.target == "latency":
            return self._as_fast(model, ranking)
        return self._within(CostModel(self.analysis, self.target), self.value, ranking), ()

    def _limits(self) -> dict[str, Any]:
        return {
            "round_to": self.round_to,
            "floors": self.floors,
            "ceilings": self.ceilings,
            "unrounded": self.analysis.heads(),
        }

    def _choices(self) -> list[WidthChoices]:
        return width_choices(self.groups, **self._limits())

    def _at_ratio(self, group: ChannelGroup, choice: WidthChoices) -> int:
        """Returns the nearest width; without a ratio of its own, a group keeps all it may."""
        ratio = self.value
        if isinstance(ratio, Mapping):
            if group.name not in ratio:
                return choice.highest
            ratio = ratio[group.name]
        round_to = None if group.name in self.analysis.heads() else self.round_to
        return choice.nearest(nearest_width(group, ratio, round_to))

    def _within(self, costs: CostModel, share: float, ranking: Ranking) -> dict[str, int]:
        options = {"allocation": self.allocation, "errors": ranking.errors, **self._limits()}
        return allocate(costs, self.groups, share, **options)

    def _as_fast(self, model: keras.Model, ranking: Ranking) -> tuple[dict[str, int], Record]:
        """Looks for the cost at which the measured latency is met."""
        latency: Latency = self.value
        costs = self._measured_costs(model)

        def compact(cost_share: float) -> keras.Model:
            widths = self._within(costs, cost_share, ranking)
            kept = {name: ranking.kept(name, width) for name, width in widths.items()}
            return select_channels(self.analysis, kept)

        search = meet_latency(
            compact,
            model,
            latency.share_of(model),
            measure=functools.partial(
                latency_share, batch_size=latency.batch_size, threads=latency.threads
            ),
            lowest=self._lowest_share(costs),
        )
        _warn_unless_met(search)
        found = (("cost_share", search.cost_share), ("latency_measured", search.latency_share))
        return self._within(costs, search.cost_share, ranking), found

    def _measured_costs(self, model: keras.Model) -> CostModel:
        """Returns costs in ms, from measurements of the model's layers."""
        latencies = layer_latencies(model, self.value.batch_size)
        per_mac = latency_cost(latencies, self.analysis.graph)
        return CostModel(self.analysis, per_mac, latencies.constant)

    def _lowest_share(self, costs: CostModel) -> float:
        """Returns the smallest cost share that the limits allow, rounded up."""
        lowest = costs.cost({choice.name: choice.lowest for choice in self._choices()})
        return min(lowest / costs.whole * (1 + ROUNDING), 1 - ROUNDING)


def _warn_unless_met(search: LatencySearch) -> None:
    if not search.met:
        # The caller of `plan` is four functions away.
        warnings.warn(
            f"`latency` was not met: {search.latency_share:.3f} of the original's was measured, "
            f"not {search.target:.3f}, and the plan stays at that.",
            stacklevel=5,
        )
