"""From a target (widths, parameters, MACs or latency) to the widths of channel groups."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_branch_prune.allocation import allocate
from keras_branch_prune.canonical import fuse
from keras_branch_prune.cost_model import CostModel
from keras_branch_prune.floor import narrowed_graph
from keras_branch_prune.graph import build_model
from keras_branch_prune.groups import Analysis, ChannelGroup
from keras_branch_prune.latency import latency_share, meet_latency, share_of_milliseconds
from keras_branch_prune.layer_latency import latency_cost, layer_latencies
from keras_branch_prune.ranking import Ranking
from keras_branch_prune.width_choices import nearest_width, width_choices

Widths = Mapping[str, float] | float
"""One limit for all groups or one per group name: whole numbers are channels, others shares."""

Record = tuple[tuple[str, Any], ...]
"""Pairs `(argument, value)`."""


@dataclasses.dataclass(frozen=True)
class Latency:
    """A latency to be met, measured on this machine with the exported model.

    Args:
        share: Of the original's latency, in (0, 1).
        milliseconds: Per sample, ms; instead of `share`.
        batch_size: Samples per call.
        threads: Number of threads on the CPU; `None` leaves them to TensorFlow.

    Raises:
        ValueError: Unless exactly one of `share` and `milliseconds` is given.
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


@dataclasses.dataclass(frozen=True, eq=False)
class WidthSearch:
    """Turns a target into widths.

    Args:
        analysis: The channel groups of the model.
        groups: Those to narrow.
        ranking: Their channels, ranked.
        allocation: How a budget is spread, see `allocate`.
        round_to: What widths are multiples of.
        floors: Smallest widths by group.
        ceilings: Largest widths by group.
    """

    analysis: Analysis
    groups: Sequence[ChannelGroup]
    ranking: Ranking
    allocation: str
    round_to: int | None
    floors: Mapping[str, int]
    ceilings: Mapping[str, int]

    def widths(self, model: keras.Model, target: str, value: Any) -> tuple[dict[str, int], Record]:
        """Returns the width of every group that is narrowed, and what else was found out.

        Args:
            model: The model.
            target: "width", "params", "macs" or "latency".
            value: Its value.

        Raises:
            ValueError: If the value is out of its range or cannot be reached.
        """
        if target == "width":
            return self._at_ratio(value), ()
        if target != "latency":
            return self._within(CostModel(self.analysis, target), value), ()
        return self._as_fast(model, value if isinstance(value, Latency) else Latency(value))

    def _at_ratio(self, width: float | Mapping[str, float]) -> dict[str, int]:
        ratios = _ratios(width, self.analysis, self.groups)
        heads, widths = self.analysis.heads(), {}
        choices = width_choices(
            self.groups, self.round_to, self.floors, self.ceilings, unrounded=heads
        )
        for group, choice in zip(self.groups, choices, strict=True):
            if group.name in ratios:
                multiple = None if group.name in heads else self.round_to
                nearest = nearest_width(group, ratios[group.name], multiple)
                widths[group.name] = choice.nearest(nearest)
        return widths

    def _within(self, costs: CostModel, share: float) -> dict[str, int]:
        return allocate(
            costs,
            self.groups,
            share,
            allocation=self.allocation,
            errors=self.ranking.errors,
            round_to=self.round_to,
            floors=self.floors,
            ceilings=self.ceilings,
            unrounded=self.analysis.heads(),
        )

    def _as_fast(self, model: keras.Model, latency: Latency) -> tuple[dict[str, int], Record]:
        """Looks for the cost at which the measured latency is met."""
        batch_size, threads, share = latency.batch_size, latency.threads, latency.share
        if latency.milliseconds is not None:
            share = share_of_milliseconds(model, latency.milliseconds, batch_size, threads)
        assert share is not None
        measured = layer_latencies(model, batch_size)
        per_mac = latency_cost(measured, self.analysis.graph)
        costs = CostModel(self.analysis, per_mac, measured.constant)
        lowest = costs.cost({group.name: group.floor for group in self.groups}) / costs.whole

        def compact(cost_share: float) -> keras.Model:
            widths = self._within(costs, cost_share)
            kept = {name: self.ranking.kept(name, width) for name, width in widths.items()}
            return build_model(fuse(narrowed_graph(self.analysis, kept)))

        search = meet_latency(
            compact,
            model,
            share,
            measure=functools.partial(latency_share, batch_size=batch_size, threads=threads),
            lowest=lowest,
        )
        reached = dict(search.measured)[search.cost_share]
        if not search.met:
            warnings.warn(
                f"`latency` was not met: {reached:.3f} of the original's was measured, not "
                f"{share:.3f}, which is what the plan stays at.",
                stacklevel=4,
            )
        found = (("cost_share", search.cost_share), ("latency_measured", reached))
        return self._within(costs, search.cost_share), found


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
    if limits is None:
        return {}
    if not isinstance(limits, Mapping):
        limits = dict.fromkeys([group.name for group in groups], limits)
    channels = {group.name: group.channels for group in groups}
    found = {}
    for name, limit in limits.items():
        if name not in channels:
            raise ValueError(f"`{argument}` must name selected groups. Received: {name!r}")
        share = isinstance(limit, float)
        if isinstance(limit, bool) or not 0 < limit <= (1 if share else channels[name]):
            raise ValueError(
                f"`{argument}` must be shares in (0, 1], or whole numbers of channels up to those "
                f"of the group. Received: {limit!r} for group '{name}'"
            )
        exact = limit * channels[name] if share else limit
        found[name] = math.ceil(exact) if argument == "floors" else max(1, math.floor(exact))
    return found


def _ratios(
    width: float | Mapping[str, float], analysis: Analysis, selected: Sequence[ChannelGroup]
) -> dict[str, float]:
    """Returns the share that each selected group keeps, validated."""
    reasons = {group.name: group.reason for group in analysis.groups}
    if not isinstance(width, Mapping):
        _check_ratio("width", width)
        return dict.fromkeys([group.name for group in selected], width)
    for name, ratio in width.items():
        _check_ratio(f"width[{name!r}]", ratio)
        if name not in reasons:
            raise ValueError(f"`width` names no channel group. Received: {name!r}; see `explain`.")
        if reasons[name] is not None:
            raise ValueError(f"`width` names group {name!r}, which stays: {reasons[name]}")
    _check_selected(width, selected)
    return dict(width)


def _check_ratio(name: str, ratio: Any) -> None:
    number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
    if not number or not 0 < ratio <= 1:
        raise ValueError(f"`{name}` must be a number in (0, 1]. Received: {ratio!r}")


def _check_selected(width: Mapping[str, float], selected: Sequence[ChannelGroup]) -> None:
    """Raises if a group with a width of its own is not selected."""
    names = {group.name for group in selected}
    for name in width:
        if name not in names:
            raise ValueError(
                f"`width` names group {name!r}, which `include`, `exclude`, `scope` or `residual` "
                "leaves out"
            )
