"""From a target to the widths that meet it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_branch_prune.analysis import Analysis, ChannelGroup
from keras_branch_prune.benchmarking import latency_cost, layer_latencies
from keras_branch_prune.branching import select_channels
from keras_branch_prune.common import require_choice
from keras_branch_prune.planning.allocation import ALLOCATIONS, allocate, check_reachable
from keras_branch_prune.planning.cost_model import CostModel
from keras_branch_prune.planning.latency_search import LatencySearch, latency_share, meet_latency
from keras_branch_prune.planning.targets import Latency, check_ratios
from keras_branch_prune.planning.widths import ROUNDING, WidthChoices, WidthLimits
from keras_branch_prune.saliency import Ranking


@dataclasses.dataclass(frozen=True, eq=False)
class WidthSearch:
    """Turns a target into widths.

    Args:
        analysis: The channel groups of the model.
        groups: The groups to narrow.
        target: "width", "params", "macs" or "latency".
        value: Its value, see `one_target`.
        allocation: How a budget is spread, see `allocate`.
        limits: Which widths there are to choose from.

    Raises:
        ValueError: If an argument is out of its range, names a wrong group, limits contradict each
            other, or parameters or MACs cannot become as few.
    """

    analysis: Analysis
    groups: Sequence[ChannelGroup]
    target: str
    value: Any
    allocation: str = "uniform"
    limits: WidthLimits = dataclasses.field(default_factory=WidthLimits)

    def __post_init__(self) -> None:
        require_choice("allocation", self.allocation, ALLOCATIONS)
        if isinstance(self.value, Mapping):
            check_ratios(self.value, self.analysis, self.groups)
        # For every target: limits that leave a group no width raise here.
        choices = self._choices
        if self.target in ("params", "macs"):
            check_reachable(self._costs, choices, self.value)

    @functools.cached_property
    def _choices(self) -> list[WidthChoices]:
        return self.limits.choices(self.groups)

    @functools.cached_property
    def _costs(self) -> CostModel:
        return CostModel(self.analysis, self.target)

    def widths(
        self, model: keras.Model, ranking: Ranking
    ) -> tuple[dict[str, int], LatencySearch | None]:
        """Returns the width of every group, and for a latency how it was looked for.

        Args:
            model: The model.
            ranking: The channels of the groups, ranked.

        Raises:
            ValueError: If the target cannot be reached.
        """
        if self.target == "width":
            pairs = zip(self.groups, self._choices, strict=True)
            return {group.name: self._choose(group, choice) for group, choice in pairs}, None
        if self.target == "latency":
            return self._meet_latency(model, ranking)
        return self._allocate(self._costs, self.value, ranking), None

    def _choose(self, group: ChannelGroup, choice: WidthChoices) -> int:
        """Returns the width nearest to the ratio; a group that none is given for keeps the most."""
        ratio = self.value.get(group.name) if isinstance(self.value, Mapping) else self.value
        if ratio is None:
            return choice.highest
        # First to whole channels, where halves go up: of two choices the smaller one is nearest.
        return choice.nearest(self.limits.nearest(group, ratio))

    def _allocate(self, costs: CostModel, share: float, ranking: Ranking) -> dict[str, int]:
        return allocate(
            costs, self._choices, share, allocation=self.allocation, errors=ranking.errors
        )

    def _meet_latency(
        self, model: keras.Model, ranking: Ranking
    ) -> tuple[dict[str, int], LatencySearch]:
        """Looks for the cost at which the measured latency is met."""
        latency: Latency = self.value
        costs = self._measure_costs(model)
        lowest = self._lowest_share(costs)
        check_reachable(costs, self._choices, lowest)

        def make_compact(cost_share: float) -> keras.Model:
            widths = self._allocate(costs, cost_share, ranking)
            kept = {name: ranking.kept(name, width) for name, width in widths.items()}
            return select_channels(self.analysis, kept)

        found = meet_latency(
            make_compact,
            model,
            latency.share_of(model),
            measure=functools.partial(
                latency_share, batch_size=latency.batch_size, threads=latency.threads
            ),
            lowest=lowest,
        )
        return self._allocate(costs, found.cost_share, ranking), found

    def _measure_costs(self, model: keras.Model) -> CostModel:
        """Measures the layers of the model; returns costs in ms, in proportion to their MACs."""
        latencies = layer_latencies(model, self.value.batch_size)
        per_mac = latency_cost(latencies, self.analysis.graph)
        return CostModel(self.analysis, per_mac, latencies.constant)

    def _lowest_share(self, costs: CostModel) -> float:
        """Returns the smallest cost share that the limits allow, rounded up."""
        lowest = costs.cost({choice.name: choice.lowest for choice in self._choices})
        return min(lowest / costs.whole * (1 + ROUNDING), 1 - ROUNDING)
