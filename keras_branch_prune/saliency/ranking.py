"""Ranks the channels of groups by a criterion, and says what keeping fewer of them costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_branch_prune.analysis import Analysis, ChannelGroup
from keras_branch_prune.common import require_choice, require_integer
from keras_branch_prune.saliency.criteria import (
    SALIENCIES,
    GroupData,
    channel_scores,
    order_by_score,
)
from keras_branch_prune.saliency.features import Features, GroupFeatures, measure_features
from keras_branch_prune.saliency.pivoting import pivot_channels


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """The channels of several groups, ranked.

    Args:
        orders: Group name → its channels, the most valuable first.
        errors: Group name → the error if the first k channels are kept, for k = 0 … channels, of
            shape `(channels + 1,)`; never rising. With calibration data it is the change of the
            model's output, to first order and relative to its mean square, if the other channels
            are fitted from those kept. Without, it is the sum of the squared scores that are lost,
            divided by that of the scores that are kept.
        features: Sums over the features of calibration data; `None` without such data.
    """

    orders: Mapping[str, np.ndarray]
    errors: Mapping[str, np.ndarray]
    features: Features | None

    def kept(self, name: str, width: int) -> tuple[int, ...]:
        """Returns the channels that a group keeps at a width, ascending."""
        return tuple(sorted(self.orders[name][:width].tolist()))

    def check_samples(self, widths: Mapping[str, int]) -> None:
        """Raises `ValueError` if there are fewer samples than channels to fit from.

        Args:
            widths: The widths of the groups that are narrowed.
        """
        if self.features is None:
            return
        samples = self.features.samples
        for name, width in widths.items():
            rows = self.features.groups[name].rows
            # Nothing is fitted from a group that no linear layer reads: it has no rows at all.
            if 0 < rows < width:
                raise ValueError(
                    f"`calibration` must have at least {-(-width * samples // rows)} samples, so "
                    f"that group '{name}' can be fitted from {width} channels. Received: {samples}"
                )


def rank(
    analysis: Analysis,
    groups: Sequence[ChannelGroup],
    saliency: str,
    calibration: Any = None,
    loss: Any = None,
    seed: int = 0,
) -> Ranking:
    """Ranks the channels of groups by a criterion.

    Args:
        analysis: The channel groups of the model.
        groups: Those to rank.
        saliency: Name of the criterion.
        calibration: Calibration data, or `None`.
        loss: A Keras loss, where the criterion needs one.
        seed: Seed of random choices.

    Returns:
        An order and an error curve for each of `groups`.

    Raises:
        TypeError: If `calibration` has another structure than the model's inputs.
        ValueError: If the criterion is unknown, needs data or a loss that is not given, or the data
            does not fit.
    """
    _check_needs(saliency, calibration, loss, seed)
    # A loss that the criterion does not need asks for no targets.
    loss = loss if SALIENCIES[saliency].needs == "loss" else None
    names = [group.name for group in groups]
    features = None
    if calibration is not None:
        features = measure_features(analysis, names, calibration, loss, seed)
    gammas, rng = _collect_gammas(analysis), np.random.default_rng(seed)
    orders, errors = {}, {}
    for group in groups:
        seen = features.groups[group.name] if features else None
        runs = analysis.producers[group.name]
        data = GroupData(group.channels, runs, gammas.get(group.name, []), rng, seen)
        scores = channel_scores(saliency, data)
        orders[group.name] = order = order_by_score(scores, group.conv_groups)
        errors[group.name] = _errors(seen, scores, order)
    return Ranking(orders, errors, features)


def _errors(seen: GroupFeatures | None, scores: np.ndarray, order: np.ndarray) -> np.ndarray:
    if seen is None:
        return _lost_scores(scores[order])
    return pivot_channels(seen.products, seen.sensitivity, order)[1]


def _check_needs(saliency: str, calibration: Any, loss: Any, seed: Any) -> None:
    require_integer("seed", seed, at_least=0)
    require_choice("saliency", saliency, sorted(SALIENCIES))
    needs = SALIENCIES[saliency].needs
    if needs != "weights" and calibration is None:
        raise ValueError(f"`calibration` must be given for saliency={saliency!r}. Received: None")
    if needs == "loss" and loss is None:
        raise ValueError(f"`loss` must be given for saliency={saliency!r}. Received: None")


def _collect_gammas(analysis: Analysis) -> dict[str, list[np.ndarray]]:
    """Returns the scales of the BatchNormalization layers of every group."""
    found: dict[str, list[np.ndarray]] = {}
    norms = {
        call.unit: call.inputs[0]
        for call in analysis.graph.calls
        if call.unit.cls is keras.layers.BatchNormalization and call.unit.config["scale"]
    }
    for unit, value in norms.items():
        layout = analysis.layouts.get(value)
        axis = unit.config["axis"] % len(value.shape)
        # A BatchNormalization along another axis has no scale per channel.
        if layout is None or layout.axis != axis:
            continue
        for name in layout.groups():
            gamma = unit.arrays()[0][layout.columns(name)]
            found.setdefault(name, []).append(np.abs(gamma).mean(axis=0))
    return found


def _lost_scores(scores: np.ndarray) -> np.ndarray:
    """Returns Σ lost² / Σ kept² after 0, 1, … channels, of scores in the order of keeping."""
    kept = np.cumsum(np.square(scores, dtype=np.float64))
    errors = (kept[-1] - kept) / np.maximum(kept, np.finfo(np.float32).tiny)
    # Keeping none would be a division by 0: a finite number that is worse than keeping one.
    return np.maximum.accumulate([0.0, *errors[-2::-1], 2 * errors[0] + 1])[::-1]
