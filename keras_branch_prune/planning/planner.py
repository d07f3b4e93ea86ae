"""Decides which channels of a model stay: how many of every group, and which of them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_branch_prune.analysis import (
    ChannelGroup,
    GroupPlan,
    PruningPlan,
    Selectors,
    analyse_prunable,
    fingerprint,
    in_scope,
    selection_record,
)
from keras_branch_prune.benchmarking import block_size
from keras_branch_prune.common import require_bool, require_integer
from keras_branch_prune.planning.targets import Latency, Record, one_target
from keras_branch_prune.planning.width_search import WidthSearch
from keras_branch_prune.planning.widths import GivenLimits, WidthLimits, width_limits
from keras_branch_prune.saliency import SALIENCIES, Ranking, rank

_CURVE_POINTS = 32


def plan(
    model: keras.Model,
    *,
    width: float | Mapping[str, float] | None = None,
    params: float | None = None,
    macs: float | None = None,
    latency: float | Latency | None = None,
    allocation: str = "uniform",
    round_to: int | str | None = None,
    floors: GivenLimits | None = None,
    ceilings: GivenLimits | None = None,
    include: Selectors = None,
    exclude: Selectors = None,
    scope: str | Sequence[str] | None = None,
    residual: bool = True,
    saliency: str | None = None,
    calibration: Any = None,
    loss: Any = None,
    seed: int = 0,
) -> PruningPlan:
    """Plans which channels of a model stay.

    Exactly one of `width`, `params`, `macs` and `latency` says how many.

    Args:
        model: A built functional or Sequential model; it is not changed.
        width: Share of the channels that every prunable group keeps, in (0, 1]; or such shares by
            group name (see `explain`), where groups that are not named keep all.
        params: Share of the model's parameters to keep, in (0, 1).
        macs: Share of the model's multiply-accumulates to keep, in (0, 1).
        latency: Share of the latency to keep, in (0, 1), at batch size 1; or a `Latency`. The
            layers are measured on this machine, and so are the compact models that the search
            tries.
        allocation: How a budget is spread over the groups: "uniform", the same share of the
            channels everywhere; or "global", which narrows first where that changes the output
            least for the cost that it saves.
        round_to: Widths become the nearest multiple of this number (half way: the smaller one),
            at least one multiple and at most the group's channels; within a budget they are
            multiples or the full width. Numbers of attention heads are not rounded: for hardware
            the channels within them count. "auto" measures how many channels the kernels of this
            machine work on at once, which takes some seconds.
        floors: Smallest widths: one share of the channels for all groups, or by group name a number
            of channels or a share.
        ceilings: Largest widths, given in the same way.
        include: Prune only the groups that match: a layer's name, a glob such as `"block?_conv*"`,
            a function `ChannelGroup -> bool`, or a sequence of those. A group matches a name if
            one of its producers does. By default all groups are pruned.
        exclude: Leave alone the groups that match, given in the same way.
        scope: Prune only what belongs to the nested model of this name, or to several.
        residual: Whether to prune residual streams too: groups of several producers that a sum
            joins.
        saliency: Which channels stay, see `SALIENCIES` and `register_saliency`: from weights "l1",
            "l2", "batch_norm", "fpgm", "random"; from calibration data "energy", "interpolative",
            "output_error"; from the loss "taylor". By default "output_error" with calibration data
            and "l1" without.
        calibration: Inputs, as the model takes them, from which criteria and errors are computed:
            arrays, a `tf.data.Dataset`, a `PyDataset` or a generator that ends; for "taylor" with
            targets. Some hundred samples or more.
        loss: A Keras loss or its name, for "taylor".
        seed: Seed of random choices.

    Returns:
        A frozen plan; groups that keep all channels are not in it.

    Raises:
        TypeError: If `model` is not a Keras model, a selector neither text nor a function, or
            `calibration` has another structure than the inputs.
        ValueError: If an argument is out of range or matches no group, if there is not exactly one
            target or it cannot be reached, if the model cannot be analysed, has weights that are
            not finite, or has nothing to prune, or if the calibration data does not fit, is not
            finite or too little.

    Example:
        >>> plan = keras_branch_prune.plan(model, macs=0.5, calibration=images, allocation="global")
        >>> all(group.width < group.channels for group in plan.groups)
        True
        >>> compact = keras_branch_prune.select(model, plan)
        >>> macs = keras_branch_prune.count_macs
        >>> macs(compact) <= 0.5 * macs(model)
        True
    """
    target, value = one_target(width=width, params=params, macs=macs, latency=latency)
    if round_to not in (None, "auto"):
        round_to = require_integer("round_to", round_to, at_least=1)
    require_bool("residual", residual)
    saliency = saliency or ("l1" if calibration is None else "output_error")
    if target == "latency" and round_to is None:
        # Removing a part of a block that the kernels fill up again would save nothing.
        round_to = "auto"
    analysis = analyse_prunable(model)
    selected = in_scope(
        analysis.groups, include=include, exclude=exclude, scope=scope, residual=residual
    )
    multiple = block_size(model.compute_dtype) if isinstance(round_to, str) else round_to
    limits = WidthLimits(
        multiple,
        width_limits("floors", floors, selected),
        width_limits("ceilings", ceilings, selected),
        analysis.heads(),
    )
    search = WidthSearch(analysis, selected, target, value, allocation, limits)
    ranking = rank(analysis, selected, saliency, calibration, loss, seed)
    widths, found = search.widths(model, ranking)
    if found is not None and not found.met:
        warnings.warn(
            f"`latency` was not met: {found.latency_share:.3f} of the original's was measured, "
            f"not {found.target:.3f}, and the plan stays at that.",
            stacklevel=2,
        )
    narrowed = [group for group in selected if widths[group.name] < group.channels]
    ranking.check_samples({group.name: widths[group.name] for group in narrowed})
    groups = tuple(_make_group_plan(group, widths[group.name], ranking) for group in narrowed)
    made: Record = (
        *_record(target, value),
        *_record("cost_share", found and found.cost_share),
        *_record("latency_measured", found and found.latency_share),
        *_record("allocation", None if target == "width" else allocation),
        ("round_to", round_to),
        *_record("block_size", multiple if round_to == "auto" else None),
        *_record("floors", floors),
        *_record("ceilings", ceilings),
        *selection_record(include=include, exclude=exclude, scope=scope),
        ("residual", residual),
        ("saliency", saliency),
        *_calibration_record(ranking),
        *_record("loss", _loss_name(loss) if SALIENCIES[saliency].needs == "loss" else None),
        *_record("seed", seed),
    )
    return PruningPlan(model.name, fingerprint(analysis), made, groups)


def _make_group_plan(group: ChannelGroup, width: int, ranking: Ranking) -> GroupPlan:
    errors: tuple[tuple[int, float], ...] = ()
    if ranking.features is not None:
        # Some points of six digits are enough to draw the curve, and keep the file small.
        points = np.unique(np.linspace(0, group.channels, _CURVE_POINTS + 1).round().astype(int))
        curve = ranking.errors[group.name]
        errors = tuple((int(k), float(f"{curve[k]:.6g}")) for k in points)
    return GroupPlan(group.name, group.channels, ranking.kept(group.name, width), errors)


def _record(argument: str, value: Any) -> Record:
    """Returns how an argument was given: pairs that read the same after JSON, none for `None`."""
    if value is None:
        return ()
    if isinstance(value, Latency):
        fields = dataclasses.asdict(value).items()
        return tuple((f"{argument}.{name}", _plain(x)) for name, x in fields if x is not None)
    if isinstance(value, Mapping):
        return tuple((f"{argument}[{name}]", _plain(x)) for name, x in value.items())
    return ((argument, _plain(value)),)


def _plain(value: Any) -> Any:
    # JSON takes no NumPy numbers.
    return value.item() if isinstance(value, np.generic) else value


def _calibration_record(ranking: Ranking) -> Record:
    if ranking.features is None:
        return ()
    features = ranking.features
    return (("calibration", f"{features.samples} samples, sha256 {features.digest}"),)


def _loss_name(loss: Any) -> str:
    return loss if isinstance(loss, str) else getattr(loss, "name", None) or loss.__name__
