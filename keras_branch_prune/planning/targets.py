"""From a target (widths, parameters, MACs or latency) to the widths of channel groups."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_branch_prune.analysis.groups import Analysis, ChannelGroup
from keras_branch_prune.analysis.narrowing import narrowed_graph
from keras_branch_prune.benchmarking.layer_latency import latency_cost, layer_latencies
from keras_branch_prune.common.arguments import check_share
from keras_branch_prune.graph.building import build_model
from keras_branch_prune.graph.canonical import fuse
from keras_branch_prune.planning.allocation import ALLOCATIONS, allocate, check_reachable
from keras_branch_prune.planning.cost_model import CostModel
from keras_branch_prune.planning.latency_search import (
    LatencySearch,
    latency_share,
    meet_latency,
    share_of_milliseconds,
)
from keras_branch_prune.planning.widths import WidthChoices, nearest_width, width_choices
from keras_branch_prune.saliency.ranking import Ranking

Widths = Mapping[str, float] | float
"""One limit for all groups or one per group name: whole numbers are channels, others shares."""

Record = tuple[tuple[str, Any], ...]
"""Pairs `(argument, value)`."""

_ROUNDING = 1e-9
"""What sums and products of floating-point numbers may be off, relative to them."""


@dataclasses.dataclass(frozen=True)
class Latency:
    """A latency to be met, measured on this machine with the exported model.

    Args:
        share: Of the original's latency, in (0, 1).
        milliseconds: Per sample, ms; instead of `share`.
        batch_size: Samples per call.
        threads: Number of threads on the CPU; `None` leaves them to TensorFlow.

    Raises:
        ValueError: Unless exactly one of `share` and `milliseconds` is given, or if an argument is
            out of its range.
    """

    share: float | None = None
    milliseconds: float | None = None
    batch_size: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if (self.share is None) == (self.milliseconds is None):
            raise ValueError(
                "`Latency` takes either `share` or `milliseconds`. "
                f"Received: share={self.share}, milliseconds={self.milliseconds}"
            )
        if self.share is not None:
            check_share("latency", self.share)
        if self.milliseconds is not None and not 0 < _number(self.milliseconds) < math.inf:
            raise ValueError(
                f"`milliseconds` must be a positive number. Received: {self.milliseconds!r}"
            )
        for name in ("batch_size", "threads"):
            value = getattr(self, name)
            chosen = name == "threads" and value is None
            if not chosen and (not isinstance(value, int) or value < 1):
                raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")

    def share_of(self, model: keras.Model) -> float:
        """Returns the latency as a share of that of a model, which is measured if need be."""
        if self.share is not None:
            return self.share
        assert self.milliseconds is not None
        return share_of_milliseconds(
            model, self.milliseconds, self.batch_size, threads=self.threads
        )


def one_target(**targets: Any) -> tuple[str, Any]:
    """Returns the name and the value of the one target that is not `None`, a latency as `Latency`.

    Raises:
        ValueError: If there is not exactly one, or its value is out of its range.
    """
    given = [name for name, value in targets.items() if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"Exactly one of {', '.join(f'`{name}`' for name in targets)} must be given. "
            f"Received: {', '.join(given) or 'none'}"
        )
    name, value = given[0], targets[given[0]]
    if name == "latency":
        return name, value if isinstance(value, Latency) else Latency(value)
    if name != "width":
        check_share(name, value)
    elif not isinstance(value, Mapping):
        _check_ratio(name, value)
    return name, value


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
            _check_ratios(self.value, self.analysis, self.groups)
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
            return build_model(fuse(narrowed_graph(self.analysis, kept)))

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
        return min(lowest / costs.whole * (1 + _ROUNDING), 1 - _ROUNDING)


def _warn_unless_met(search: LatencySearch) -> None:
    if not search.met:
        # The caller of `plan` is four functions away.
        warnings.warn(
            f"`latency` was not met: {search.latency_share:.3f} of the original's was measured, "
            f"not {search.target:.3f}, and the plan stays at that.",
            stacklevel=5,
        )


def width_limits(
    argument: str, limits: Widths | None, groups: Sequence[ChannelGroup]
) -> dict[str, int]:
    """Returns limits of widths as numbers of channels by group.

    Args:
        argument: "floors" or "ceilings".
        limits: One limit for all groups or one by group: numbers of channels, or shares of them.
        groups: The selected groups.

    Raises:
        ValueError: If a limit is out of its range, or of a group that is not selected.
    """
    channels = {group.name: group.channels for group in groups}
    if limits is None:
        return {}
    if not isinstance(limits, Mapping):
        limits = dict.fromkeys(channels, limits)
    unknown = sorted(limits.keys() - channels.keys())
    if unknown:
        raise ValueError(f"`{argument}` must name selected groups. Received: {unknown}")
    return {name: _width_limit(argument, limits[name], name, channels[name]) for name in limits}


def _width_limit(argument: str, limit: Any, name: str, channels: int) -> int:
    whole = isinstance(limit, numbers.Integral)
    if not 0 < _number(limit) <= (channels if whole else 1):
        raise ValueError(
            f"`{argument}` must be shares in (0, 1], or whole numbers of channels up to those "
            f"of the group. Received: {limit!r} for group '{name}', of {channels} channels"
        )
    if whole:
        return int(limit)
    exact = limit * channels
    if argument == "floors":
        return math.ceil(exact * (1 - _ROUNDING))
    return max(1, math.floor(exact * (1 + _ROUNDING)))


def _number(value: Any) -> float:
    """Returns a number, and NaN for all else."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def _check_ratio(name: str, ratio: Any) -> None:
    if not 0 < _number(ratio) <= 1:
        raise ValueError(f"`{name}` must be a number in (0, 1]. Received: {ratio!r}")


def _check_ratios(
    width: Mapping[str, Any], analysis: Analysis, selected: Sequence[ChannelGroup]
) -> None:
    """Raises unless all are ratios of selected groups that can be pruned."""
    reasons = {group.name: group.reason for group in analysis.groups}
    names = {group.name for group in selected}
    for name, ratio in width.items():
        _check_ratio(f"width[{name!r}]", ratio)
        if name not in reasons:
            raise ValueError(f"`width` names no channel group. Received: {name!r}; see `explain`.")
        if reasons[name] is not None:
            raise ValueError(f"`width` names group {name!r}, which stays: {reasons[name]}")
        if name not in names:
            raise ValueError(
                f"`width` names group {name!r}, which `include`, `exclude`, `scope` or `residual` "
                "leaves out"
            )
