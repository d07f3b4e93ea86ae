"""Runs calibration data through a model and sums up what the channels of its groups do.

The features f of a group are what linear layers read of it: the tensors at its exits, behind
BatchNormalization, activation and pooling. They are held as rows, one column per channel. A
`(32, 7, 7, 64)` tensor gives 32·49 rows of 64; a channel that stands several times in a tensor
(positions of `Flatten`, depth multipliers, an attention head) gives a row for each.

How far an error δ in the features moves the model's output y is estimated to first order from the
gradients ∂(v·y)/∂f, with random signs v: on average over v, `(δ · ∂(v·y)/∂f)²` is |δ · ∂y/∂f|²
(Hutchinson's estimator). No labels are needed, and errors of all groups can be compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection
from typing import Any

import numpy as np

from keras_branch_prune.analysis import Analysis
from keras_branch_prune.common import require_tensorflow
from keras_branch_prune.data import read_batches
from keras_branch_prune.graph import Value
from keras_branch_prune.saliency.gradients import BatchGradients, Gradients


@dataclasses.dataclass(eq=False)
class GroupFeatures:
    """Sums over the features f, `(rows, channels)`, of a group at all its exits.

    Args:
        products: `fᵀ·f`, of shape `(channels, channels)`, float64, averaged over the samples and
            the positions of each. Every exit is scaled to a mean square of 1 in its first batch, so
            that all exits count alike.
        sensitivity: `gᵀ·g` of the output's gradients g at the features, of the same shape, scaled
            so that errors in the features whose products are X, averaged and scaled likewise, move
            the output by `trace(sensitivity · X)` of its mean square.
        taylor: `|Σ f · ∂loss/∂f|` per channel, the inner sum over the positions of a sample, the
            outer over the samples; shape `(channels,)`, zeros without a loss.
        rows: Number of rows of f at the exit that has most.
    """

    products: np.ndarray
    sensitivity: np.ndarray
    taylor: np.ndarray
    rows: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """The features of several groups.

    Args:
        groups: Name of the group → its sums.
        samples: Number of calibration samples.
        digest: The first 16 hexadecimal digits of the inputs' SHA-256.
    """

    groups: dict[str, GroupFeatures]
    samples: int
    digest: str


def measure_features(
    analysis: Analysis, names: Collection[str], data: Any, loss: Any = None, seed: int = 0
) -> Features:
    """Runs calibration data through a model and sums up the features of channel groups.

    Args:
        analysis: The channel groups of the model.
        names: Names of the groups to look at.
        data: Calibration data, see `read_batches`.
        loss: A Keras loss, or its name, for `taylor`; then the data must hold targets.
        seed: Seed of the random signs.

    Raises:
        NotImplementedError: If the backend is not TensorFlow.
        TypeError: If `data` has another structure than the model's inputs.
        ValueError: If values do not fit or are not finite, or targets are missing.
    """
    require_tensorflow("`calibration`")
    exits = _Exits(analysis, names)
    gradients = Gradients(analysis.graph, exits.values, loss, seed)
    digest, samples, energy = hashlib.sha256(), 0, 0.0
    for inputs, targets in read_batches(data, analysis.graph):
        for array in inputs:
            digest.update(np.ascontiguousarray(array).tobytes())
        samples += len(inputs[0])
        result = gradients(inputs, targets)
        energy += result.energy
        exits.add(result)
    for group in exits.groups.values():
        group.products /= samples
        # An output that is 0 throughout does not move either.
        group.sensitivity /= energy or 1.0
    return Features(exits.groups, samples, digest.hexdigest()[:16])


@dataclasses.dataclass(eq=False)
class _Place:
    """The channels of one group in one tensor.

    Args:
        group: Name of the group.
        axis: The channel axis.
        columns: Indices along that axis, of shape `(copies, channels)`: 49 copies behind `Flatten`.
        scale: Factor on the products of the features; 0 before the first batch.
    """

    group: str
    axis: int
    columns: np.ndarray
    scale: float = 0.0

    def rows(self, array: np.ndarray) -> np.ndarray:
        """Returns the group's part of a batch of the tensor, `(batch, rows, channels)`, float32."""
        along = np.moveaxis(array, self.axis, -1)[..., self.columns]
        rows = along.reshape(len(array), -1, self.columns.shape[1])
        return rows.astype(np.float32, copy=False)


class _Exits:
    """Sums up the features of groups, batch by batch, at all tensors that hold them."""

    def __init__(self, analysis: Analysis, names: Collection[str]):
        sizes = {group.name: group.channels for group in analysis.groups if group.name in names}
        self.groups = {
            name: GroupFeatures(np.zeros((size, size)), np.zeros((size, size)), np.zeros(size))
            for name, size in sizes.items()
        }
        self._places: dict[Value, list[_Place]] = {}
        for value in analysis.exits:
            layout = analysis.layouts.get(value)
            groups = sorted(layout.groups() & sizes.keys()) if layout else []
            if layout and groups:
                places = [_Place(name, layout.axis, layout.columns(name)) for name in groups]
                self._places[value] = places

    @property
    def values(self) -> list[Value]:
        """The tensors whose features and gradients `add` expects, in this order."""
        return list(self._places)

    def add(self, batch: BatchGradients) -> None:
        """Adds one batch."""
        seen: dict[str, int] = {}
        for index, places in enumerate(self._places.values()):
            for place in places:
                rows = place.rows(batch.features[index])
                self._add_products(place, rows, place.rows(batch.output_gradients[index]))
                # First the sum over a sample's positions, then the size: a channel acts as a whole.
                if batch.loss_gradients:
                    effects = (rows * place.rows(batch.loss_gradients[index])).sum(axis=1)
                    self.groups[place.group].taylor += np.abs(effects).sum(axis=0)
                seen[place.group] = max(seen.get(place.group, 0), rows.shape[0] * rows.shape[1])
        for name, count in seen.items():
            self.groups[name].rows += count

    def _add_products(self, place: _Place, features: np.ndarray, gradients: np.ndarray) -> None:
        group, positions = self.groups[place.group], features.shape[1]
        features, gradients = (x.reshape(-1, x.shape[-1]) for x in (features, gradients))
        # The first batch decides the scale, as all batches must be weighed alike.
        place.scale = place.scale or 1 / max(float(np.square(features).mean()), 1e-30)
        group.products += place.scale / positions * (features.T @ features)
        group.sensitivity += (gradients.T @ gradients) / place.scale
