"""Measures how much a model suffers if a single channel group is narrowed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_branch_prune.analysis import (
    Analysis,
    ChannelGroup,
    GroupPlan,
    PruningPlan,
    Selectors,
    analyse_prunable,
    fingerprint,
    in_scope,
)
from keras_branch_prune.branching import branch, merge
from keras_branch_prune.common import format_table, require, require_share
from keras_branch_prune.data import Batch, read_batches
from keras_branch_prune.layers import set_alpha
from keras_branch_prune.planning import WidthLimits
from keras_branch_prune.saliency import Ranking, rank

Metric = Callable[[keras.Model], float]
"""Takes a compact model and returns how good it is."""


@dataclasses.dataclass(frozen=True)
class GroupSensitivity:
    """How much a model suffers from one group.

    Args:
        name: Name of the channel group.
        channels: Number of its channels.
        widths: The numbers of channels that stay, one per ratio.
        values: The error or metric at each of them.
    """

    name: str
    channels: int
    widths: tuple[int, ...]
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """How much a model suffers from each of its groups; made by `sensitivity`.

    Args:
        model_name: Name of the model.
        ratios: Shares of the channels that stay, ascending.
        groups: One entry per group, in the order of the model.
        whole: The metric of the model itself; `None` if the values in `groups` are errors.
    """

    model_name: str
    ratios: tuple[float, ...]
    groups: tuple[GroupSensitivity, ...]
    whole: float | None = None

    @property
    def quantity(self) -> str:
        """What the values are: "error" or "metric"."""
        return "error" if self.whole is None else "metric"

    def records(self) -> list[dict[str, Any]]:
        """Returns one flat dict per group and ratio."""
        return [
            {
                "group": group.name,
                "channels": group.channels,
                "ratio": ratio,
                "width": width,
                self.quantity: value,
            }
            for group in self.groups
            for ratio, width, value in zip(self.ratios, group.widths, group.values, strict=True)
        ]

    def __str__(self) -> str:
        rows = [(g.name, str(g.channels), *(f"{v:.3g}" for v in g.values)) for g in self.groups]
        whole = "" if self.whole is None else f", {self.whole:.3g} whole"
        table = format_table(("group", "channels", *(f"{r:g}" for r in self.ratios)), rows)
        return f"Sensitivity of '{self.model_name}' ({self.quantity} by width{whole})\n{table}"


def sensitivity(
    model: keras.Model,
    *,
    calibration: Any,
    widths: Sequence[float] = (0.125, 0.25, 0.5, 0.75),
    saliency: str | None = None,
    loss: Any = None,
    metric: Metric | None = None,
    include: Selectors = None,
    exclude: Selectors = None,
    scope: str | Sequence[str] | None = None,
    residual: bool = True,
    seed: int = 0,
) -> Sensitivity:
    """Returns for every group how much a model suffers if that group alone is narrowed.

    Example:
        >>> import keras, numpy as np
        >>> import keras_branch_prune as kbp
        >>> inputs = keras.Input((4,))
        >>> x = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
        >>> model = keras.Model(inputs, keras.layers.Dense(2)(x))
        >>> samples = np.random.default_rng(0).normal(size=(100, 4))
        >>> result = kbp.sensitivity(model, calibration=samples, widths=(0.25, 0.5))
        >>> [(record["group"], record["width"]) for record in result.records()]
        [('hidden', 2), ('hidden', 4)]

    Args:
        model: A built functional or Sequential model; it is not changed.
        calibration: Calibration data, as for `plan`.
        widths: The shares of the channels that stay, in (0, 1); a group takes the nearest width
            that it can have.
        saliency: Which channels stay, as for `plan`; by default "output_error".
        loss: A Keras loss or its name, for "taylor".
        metric: Takes a compact model in which one group is narrowed, with the maps around it fitted
            to `calibration`, and returns a number such as its accuracy. By default no such model is
            made: the values are errors, the change of the output to first order and relative to its
            mean square, which the ranking knows for all widths.
        include: Look only at the groups that match, see `plan`.
        exclude: Leave out the groups that match.
        scope: Look only at what belongs to the nested model of this name, or to several.
        residual: Whether to look at residual streams too.
        seed: Seed of random choices.

    Returns:
        The error or metric of every group at every width; prints as a table.

    Raises:
        TypeError: If `model` is not a Keras model, `metric` not a function, a selector neither text
            nor a function, or `calibration` has another structure than the inputs.
        ValueError: If an argument is out of range or matches no group, the model cannot be pruned,
            or the calibration data does not fit, is not finite or has too few samples.
    """
    ratios = _check_ratios(widths)
    if metric is not None and not callable(metric):
        raise TypeError(f"`metric` must be a function. Received: {metric!r}")
    analysis = analyse_prunable(model)
    groups = in_scope(
        analysis.groups, include=include, exclude=exclude, scope=scope, residual=residual
    )
    # Held in memory: the data may be a generator, and is read again for every compact model.
    batches = None if metric is None else list(read_batches(calibration, analysis.graph))
    data = calibration if batches is None else iter(batches)
    ranking = rank(analysis, groups, saliency or "output_error", data, loss, seed)
    found = []
    trial = None if batches is None else _Trial(model, analysis, ranking, batches, metric)
    for group in groups:
        kept = tuple(WidthLimits().nearest(group, ratio) for ratio in ratios)
        narrow = [width for width in kept if width < group.channels]
        ranking.check_samples({group.name: max(narrow, default=0)})
        values = trial.measure(group, kept) if trial else ranking.errors[group.name][list(kept)]
        found.append(GroupSensitivity(group.name, group.channels, kept, tuple(map(float, values))))
    return Sensitivity(model.name, ratios, tuple(found), trial.whole if trial else None)


def _check_ratios(widths: Sequence[float]) -> tuple[float, ...]:
    require(len(widths) > 0, "widths", widths, "a sequence of numbers, not empty")
    return tuple(sorted({require_share("widths", ratio) for ratio in widths}))


class _Trial:
    """Measures a metric of the compact models in which one group is narrowed."""

    def __init__(
        self,
        model: keras.Model,
        analysis: Analysis,
        ranking: Ranking,
        batches: Sequence[Batch],
        metric: Any,
    ):
        self._model = model
        self._fingerprint = fingerprint(analysis)
        self._ranking = ranking
        self._batches = batches
        self._metric = metric
        self.whole = float(metric(model))

    def measure(self, group: ChannelGroup, widths: Sequence[int]) -> list[float]:
        """Returns the metric at each of these widths; at the full width it is the model's own."""
        known = {group.channels: self.whole}
        # Several ratios may mean one width: 0.25 and 0.5 of 2 channels are both 1.
        for width in set(widths) - known.keys():
            known[width] = float(self._metric(self._prune(group, width)))
        return [known[width] for width in widths]

    def _prune(self, group: ChannelGroup, width: int) -> keras.Model:
        kept = self._ranking.kept(group.name, width)
        groups = (GroupPlan(group.name, group.channels, kept),)
        plan = PruningPlan(self._model.name, self._fingerprint, (), groups)
        branched = branch(self._model, plan, calibration=iter(self._batches))
        set_alpha(branched, 0)
        # There is one such model per group and width: verifying each would take too long.
        return merge(branched, verify=False)
