"""Decides which channels of a model stay."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_branch_prune.canonical import canonical
from keras_branch_prune.files import atomic_write
from keras_branch_prune.graph import Graph
from keras_branch_prune.groups import Analysis, ChannelGroup, analyse
from keras_branch_prune.layers import Alpha
from keras_branch_prune.saliency import SALIENCIES, kept_channels
from keras_branch_prune.scopes import Selectors, in_scope, selection_record
from keras_branch_prune.tables import format_table

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class GroupPlan:
    """The channels of one group that stay.

    Args:
        name: Name of the channel group.
        channels: Channels before pruning.
        kept: Indices of the channels that the pruned branch starts with, ascending.
    """

    name: str
    channels: int
    kept: tuple[int, ...]

    @property
    def width(self) -> int:
        """Channels after pruning."""
        return len(self.kept)


@dataclasses.dataclass(frozen=True)
class PruningPlan:
    """Which channels of a model stay; made by `plan`, applied by `branch`.

    A plan is a value: equal, hashable, printable, and it survives JSON. It fits every model with
    the same structure, whatever the weights.

    Args:
        model_name: Name of the model it was made for.
        fingerprint: Hash of that model's channel groups.
        target: How the widths were asked for, as `(argument, value)` pairs.
        groups: One entry per group that is narrowed.
    """

    model_name: str
    fingerprint: str
    target: tuple[tuple[str, Any], ...]
    groups: tuple[GroupPlan, ...]

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """Group name → indices of the channels that stay, for the groups that are narrowed."""
        return {group.name: group.kept for group in self.groups}

    def __str__(self) -> str:
        target = ", ".join(f"{name}={value}" for name, value in self.target)
        rows = [
            (g.name, str(g.channels), str(g.width), f"{g.width / g.channels:.3f}")
            for g in self.groups
        ]
        table = format_table(("group", "channels", "width", "ratio"), rows)
        return f"PruningPlan of '{self.model_name}' ({target})\n{table}"

    def to_json(self) -> str:
        """Returns the plan as JSON text."""
        return json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> PruningPlan:
        """Returns the plan that `to_json` wrote.

        Raises:
            ValueError: If `text` is not such a plan.
        """
        try:
            fields = json.loads(text)
            if fields.pop("format") != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT}")
            groups = [
                GroupPlan(str(g["name"]), int(g["channels"]), tuple(map(int, g["kept"])))
                for g in fields.pop("groups")
            ]
            target = tuple((str(name), value) for name, value in fields.pop("target"))
            return cls(target=target, groups=tuple(groups), **fields)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"`text` must be the JSON of a PruningPlan: {error!r}. Received: {text[:80]!r}"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan to a JSON file, atomically."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PruningPlan:
        """Reads a plan that `save` wrote."""
        with open(path, encoding="utf-8") as file:
            return cls.from_json(file.read())


def plan(
    model: keras.Model,
    *,
    width: float | Mapping[str, float],
    round_to: int | None = None,
    include: Selectors = None,
    exclude: Selectors = None,
    scope: str | Sequence[str] | None = None,
    residual: bool = True,
    saliency: str = "l1",
    seed: int = 0,
) -> PruningPlan:
    """Plans which channels of a model stay.

    Args:
        model: A built functional or Sequential model; it is not changed.
        width: Share of the channels that every prunable group keeps, in (0, 1]; or such shares by
            group name (see `explain`), where groups that are not named keep all.
        round_to: Widths are rounded to the nearest multiple of this number (down from half way, but
            to at least one multiple), as far as the group has channels. Attention heads are not
            rounded: what counts for hardware are the channels in them.
        include: Prune only the groups that match: a layer's name, a glob such as `"block?_conv*"`,
            a function `ChannelGroup -> bool`, or a sequence of those. A group matches a name if
            one of its producers does. By default all groups are pruned.
        exclude: Leave alone the groups that match, given in the same way.
        scope: Prune only what belongs to the nested model of this name, or to several.
        residual: Whether to prune residual streams too: groups of several producers that a sum
            joins.
        saliency: Which channels stay: those with the largest "l1" norm of the kernel, or "random".
        seed: Seed of random choices.

    Returns:
        A frozen plan.

    Raises:
        TypeError: If `model` is not a Keras model, or a selector neither text nor a function.
        ValueError: If an argument is out of range or matches no group, if the model cannot be
            analysed, has weights that are not finite, or has nothing to prune.
    """
    if saliency not in SALIENCIES:
        raise ValueError(f"`saliency` must be one of {sorted(SALIENCIES)}. Received: {saliency!r}")
    if round_to is not None and (not isinstance(round_to, int) or round_to < 1):
        raise ValueError(f"`round_to` must be a positive integer or None. Received: {round_to!r}")
    graph = canonical(model)
    check_weights(graph)
    analysis = analyse(graph)
    ratios = _ratios(width, analysis)
    selected = in_scope(
        analysis.groups, include=include, exclude=exclude, scope=scope, residual=residual
    )
    _check_selected(width, selected)
    rng = np.random.default_rng(seed)
    groups, heads = [], analysis.heads()
    for group in (group for group in selected if group.name in ratios):
        scores = SALIENCIES[saliency](analysis.producers[group.name], rng)
        multiple = None if group.name in heads else round_to
        kept_width = _group_width(group, ratios[group.name], multiple)
        kept = kept_channels(scores, kept_width, group.partitions)
        if len(kept) < group.channels:
            groups.append(GroupPlan(group.name, group.channels, kept))
    selection = selection_record(include=include, exclude=exclude, scope=scope)
    options = (("round_to", round_to), *selection, ("residual", residual))
    target = (*_target_record(width), *options, ("saliency", saliency), ("seed", seed))
    return PruningPlan(model.name, fingerprint(analysis), target, tuple(groups))


def _group_width(group: ChannelGroup, ratio: float, round_to: int | None) -> int:
    """Returns the width nearest to the ratio that rounding and the group's partitions allow."""
    multiple = math.lcm(round_to or 1, group.partitions)
    if multiple > group.channels:
        multiple = group.partitions
    return round_width(group.channels * ratio, group.channels, multiple)


def _check_selected(width: float | Mapping[str, float], selected: Sequence[ChannelGroup]) -> None:
    """Raises if a group with a width of its own is not selected."""
    names = {group.name for group in selected}
    for name in width if isinstance(width, Mapping) else ():
        if name not in names:
            raise ValueError(
                f"`width` names group {name!r}, which `include`, `exclude`, `scope` or `residual` "
                "leaves out"
            )


def _target_record(width: float | Mapping[str, float]) -> tuple[tuple[str, Any], ...]:
    if isinstance(width, Mapping):
        return tuple((f"width[{name}]", ratio) for name, ratio in width.items())
    return (("width", width),)


def _ratios(width: float | Mapping[str, float], analysis: Analysis) -> dict[str, float]:
    """Returns the share kept of every prunable group, validated."""
    reasons = {group.name: group.reason for group in analysis.groups}
    prunable = [name for name, reason in reasons.items() if reason is None]
    if not prunable:
        raise ValueError(
            "`model` has no channel group that can be pruned:\n"
            + "\n".join(f"  {name}: {reason}" for name, reason in reasons.items())
        )
    if not isinstance(width, Mapping):
        _check_ratio("width", width)
        return dict.fromkeys(prunable, width)
    for name, ratio in width.items():
        _check_ratio(f"width[{name!r}]", ratio)
        if name not in reasons:
            raise ValueError(f"`width` names no channel group. Received: {name!r}; see `explain`.")
        if reasons[name] is not None:
            raise ValueError(f"`width` names group {name!r}, which stays: {reasons[name]}")
    return {name: width[name] for name in prunable if name in width}


def _check_ratio(name: str, ratio: Any) -> None:
    number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
    if not number or not 0 < ratio <= 1:
        raise ValueError(f"`{name}` must be a number in (0, 1]. Received: {ratio!r}")


def round_width(width: float, channels: int, round_to: int = 1) -> int:
    """Returns a whole width between 1 and `channels`, a multiple of `round_to` or `channels`.

    Halves are rounded up to whole channels, and down to a multiple.
    """
    if round_to == 1:
        return min(channels, max(1, math.floor(width + 0.5)))
    multiple = max(1, math.ceil(width / round_to - 0.5)) * round_to
    return min(channels, multiple)


def check_weights(graph: Graph) -> None:
    """Raises `ValueError` if the model is branched already or has a NaN or infinite weight."""
    if any(call.unit.cls is Alpha for call in graph.calls):
        raise ValueError(f"`model` must not be branched already. Received: '{graph.name}'")
    for unit in dict.fromkeys(call.unit for call in graph.calls):
        for array in unit.arrays():
            # NumPy does not count bfloat16 among its inexact types.
            if "float" in array.dtype.name and not np.isfinite(array).all():
                raise ValueError(
                    f"`model` must have finite weights. Received: layer '{unit.name}' "
                    f"({unit.cls.__name__}) with NaN or infinite values"
                )


def fingerprint(analysis: Analysis) -> str:
    """Returns a hash of the channel groups' names, sizes, producers and consumers."""
    groups = [dataclasses.astuple(group) for group in analysis.groups]
    return hashlib.sha256(json.dumps(groups).encode()).hexdigest()[:16]


def check_plan(pruning_plan: PruningPlan, analysis: Analysis) -> None:
    """Raises unless the plan was made for a model of this structure and is consistent with it."""
    if not isinstance(pruning_plan, PruningPlan):
        raise TypeError(f"`plan` must be a PruningPlan. Received: {type(pruning_plan).__name__}")
    if pruning_plan.fingerprint != fingerprint(analysis):
        raise ValueError(
            "`plan` must have been made for this model. Received: a plan for "
            f"'{pruning_plan.model_name}', whose channel groups differ from those of "
            f"'{analysis.graph.name}'"
        )
    if not pruning_plan.groups:
        raise ValueError("`plan` must narrow at least one group. Received: a plan without groups")
    channels = {group.name: group.channels for group in analysis.groups if group.prunable}
    for group in pruning_plan.groups:
        kept = group.kept
        ascending = all(a < b for a, b in itertools.pairwise(kept))
        in_range = bool(kept) and kept[0] >= 0 and kept[-1] < channels.get(group.name, 0)
        if not (ascending and in_range):
            raise ValueError(
                f"`plan` must keep ascending channel indices of prunable groups. Received: group "
                f"'{group.name}' with kept={kept}"
            )
