"""The pruning plan: which channels of a model stay, as a value."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from typing import Any

import keras

from keras_branch_prune.analysis.groups import Analysis, analyse, check_weights
from keras_branch_prune.common import format_table
from keras_branch_prune.files import atomic_write
from keras_branch_prune.graph import canonical

_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class GroupPlan:
    """The channels of one group that stay.

    Args:
        name: Name of the channel group.
        channels: Channels before pruning.
        kept: Indices of the channels that the pruned branch starts with, ascending.
        error_curve: Pairs `(width, error)`, if calibration data was given: an estimate, to first
            order, of the change of the model's output relative to its size, if only this group were
            narrowed to that width and the lost channels were fitted from the kept ones.
    """

    name: str
    channels: int
    kept: tuple[int, ...]
    error_curve: tuple[tuple[int, float], ...] = ()

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
        target: The arguments of `plan` that asked for the widths, as `(argument, value)` pairs.
        groups: One entry per group that is narrowed.

    Example:
        >>> plan = keras_branch_prune.plan(model, width=0.5)
        >>> keras_branch_prune.PruningPlan.from_json(plan.to_json()) == plan
        True
        >>> compact = keras_branch_prune.select(model, plan)
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
                GroupPlan(
                    str(g["name"]),
                    int(g["channels"]),
                    tuple(map(int, g["kept"])),
                    tuple((int(width), float(error)) for width, error in g["error_curve"]),
                )
                for g in fields.pop("groups")
            ]
            target = tuple((str(name), value) for name, value in fields.pop("target"))
            return cls(target=target, groups=tuple(groups), **fields)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"`text` must be the JSON of a PruningPlan: {error!r}. Received: {text[:80]!r}"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan to a JSON file, atomically: there is never half a file."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PruningPlan:
        """Reads a plan that `save` wrote.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it does not contain a plan.
        """
        return cls.from_json(pathlib.Path(path).read_text(encoding="utf-8"))


def fingerprint(analysis: Analysis) -> str:
    """Returns a hash of the channel groups' names, sizes, producers and consumers."""
    groups = [dataclasses.astuple(group) for group in analysis.groups]
    return hashlib.sha256(json.dumps(groups).encode()).hexdigest()[:16]


def analyse_for_plan(model: keras.Model, plan: PruningPlan) -> Analysis:
    """Returns the channel groups of a model that a plan is to be applied to.

    Raises:
        TypeError: If `model` is not a Keras model or `plan` not a plan.
        ValueError: If the plan was made for another model or is not consistent, or the model cannot
            be analysed, is branched already or has weights that are not finite.
    """
    graph = canonical(model)
    check_weights(graph)
    analysis = analyse(graph)
    _check_plan(plan, analysis)
    return analysis


def _check_plan(pruning_plan: PruningPlan, analysis: Analysis) -> None:
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
