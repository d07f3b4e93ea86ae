"""Fits the pruned branch of a branched model to the original, without labels or training.

The model is computed layer by layer, each layer for all calibration batches, as two networks side
by side: the original (α = 1) and the pruned one (α = 0). What can be fitted is fitted when it is
reached, to what the pruned network has computed so far. So later maps make up for the errors of
earlier ones:

* a reduce map R reads C channels of the pruned network; its targets are the k selected channels of
  the original;
* a BatchNormalization of the pruned branch gets the mean and variance of its new inputs;
* an expand map E reads the k channels of the pruned branch; its targets are the C channels of the
  original branch at the same blend.

The fits are ridge regressions from sums over batches. Activations are held until the last call that
reads them, and beyond `memory_mib` in files, so that memory does not grow with the number of
samples. Zhang et al. (2016) and He et al. (2017) fit in the same order, layer by layer, on the
approximated network's own outputs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_branch_prune.branching.least_squares import ColumnStatistics, Moments
from keras_branch_prune.branching.two_runs import ORIGINAL, Task, TwoRuns, is_narrow_norm
from keras_branch_prune.common import require_bool, require_number
from keras_branch_prune.data import Spool, read_batches
from keras_branch_prune.graph import Unit, as_array, canonical
from keras_branch_prune.layers import AlphaBlend, ChannelMap

_PRIOR_ROWS = 10
"""Weight of a BatchNormalization's old variance, in rows: that of a single sample would be 0."""


@dataclasses.dataclass(frozen=True)
class Fitting:
    """The settings of `reconstruct`: what is fitted, and how strongly maps keep to their start.

    Args:
        expand: Whether expand maps are fitted.
        reduce: Whether reduce maps are fitted.
        statistics: Whether BatchNormalization layers of the pruned branch get new statistics.
        ridge: Penalty λ on the squared distance of a map from its start, as a multiple of the mean
            square of its inputs.

    Raises:
        ValueError: If `ridge` is not a finite number ≥ 0, or another argument not a bool.
    """

    expand: bool = True
    reduce: bool = True
    statistics: bool = True
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("expand", "reduce", "statistics"):
            require_bool(name, getattr(self, name))
        require_number("ridge", self.ridge, lambda x: 0 <= x < math.inf, "a finite number ≥ 0")


def reconstruct(
    branched: keras.Model, data: Any, fitting: Fitting | None = None, memory_mib: float = 256
) -> dict[str, float]:
    """Fits the maps and statistics of the pruned branch in place.

    Args:
        branched: A model made by `branch`, at any α. Its reduce maps must still select channels, or
            be near to that: the targets are what they make of the original's channels.
        data: Calibration inputs: arrays, a `tf.data.Dataset`, a `PyDataset` or a generator that
            ends. No labels are needed.
        fitting: What is fitted, and how; `None` fits everything.
        memory_mib: Memory for activations, MiB; the rest goes to temporary files.

    Returns:
        Name of each fitted expand map → `|o − p|² / |o|²`, the relative squared difference of the
        branches at its blends.

    Raises:
        TypeError: If `data` has another structure than the inputs.
        ValueError: If `branched` has no blends, or `data` does not fit its inputs, has no samples,
            or leads to NaN or infinite activations.

    Example:
        >>> errors = keras_branch_prune.reconstruct(branched, images)
        >>> all(0 <= error < 1 for error in errors.values())
        True
    """
    graph = canonical(branched)
    if not any(call.unit.cls is AlphaBlend for call in graph.calls):
        raise ValueError(f"`branched` must be made by `branch`. Received: '{graph.name}'")
    fitter = MapFitter(fitting or Fitting())
    with Spool(memory_mib) as spool:
        for inputs, _ in read_batches(data, graph):
            for value, array in zip(graph.input_values, inputs, strict=True):
                spool.append((ORIGINAL, value), array)
        TwoRuns(graph, spool, fitter.fits, fitter.fit).run()
    return fitter.errors


class MapFitter:
    """Fits maps and statistics, in place; `errors` are those of the expand maps, by name."""

    def __init__(self, fitting: Fitting):
        self._fitting = fitting
        self.errors: dict[str, float] = {}

    def fits(self, task: Task) -> bool:
        """Whether the layer of a task is to be fitted."""
        if task.run == ORIGINAL:
            return False
        if task.call.unit.cls is ChannelMap:
            return self._fitting.expand if task.is_expand else self._fitting.reduce
        return self._fitting.statistics and is_narrow_norm(task.call.unit)

    def fit(self, tasks: Sequence[Task], spool: Spool) -> None:
        """Fits the layer that the tasks share to all of them together."""
        if tasks[0].call.unit.cls is not ChannelMap:
            _set_statistics(tasks, spool)
        # A reduce map that reads what the original computes is exact as it is.
        elif any(task.target not in task.inputs.values() for task in tasks):
            self._fit_map(tasks, spool)

    def _fit_map(self, tasks: Sequence[Task], spool: Spool) -> None:
        unit, is_expand = tasks[0].call.unit, tasks[0].is_expand
        kernels = unit.weights[: len(unit.config["blocks"])]
        starts = [as_array(kernel).astype(np.float64) for kernel in kernels]
        moments = [Moments(*start.shape) for start in starts]
        for task in tasks:
            for batch in _map_batches(task, starts, spool):
                for part, (inputs, targets) in zip(moments, batch, strict=True):
                    part.add(inputs, targets)
        intercept = self._has_intercept(tasks)
        pairs = zip(moments, starts, strict=True)
        fits = [part.solve(self._fitting.ridge, start, intercept) for part, start in pairs]
        for kernel, fit in zip(kernels, fits, strict=True):
            kernel.assign(fit.matrix)
        if unit.config["use_bias"]:
            # The positions of a block share the fit, but the map has a bias for each of them.
            blocks = zip(fits, unit.config["blocks"], strict=True)
            biases = [np.tile(np.asarray(fit.bias), positions) for fit, (positions, *_) in blocks]
            unit.weights[-1].assign(np.concatenate(biases))
        if is_expand:
            energy = sum(fit.energy for fit in fits)
            self.errors[unit.name] = sum(fit.error for fit in fits) / energy if energy else 0.0

    def _has_intercept(self, tasks: Sequence[Task]) -> bool:
        """Whether the fit may shift the outputs by a constant."""
        # Where BatchNormalization alone reads a map without bias, and gets new statistics, it takes
        # any constant off: the matrix need not reproduce the means.
        if tasks[0].call.unit.config["use_bias"]:
            return True
        return self._fitting.statistics and all(task.feeds_norm for task in tasks)


def _map_batches(
    task: Task, starts: Sequence[np.ndarray], spool: Spool
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Yields the rows of inputs and of targets of each block of a map, batch by batch."""
    assert task.target is not None
    unit, (source,) = task.call.unit, task.inputs.values()
    for inputs, targets in zip(spool.batches(source), spool.batches(task.target), strict=True):
        x = _block_rows(inputs, unit, 1)
        y = _block_rows(targets, unit, 2 if task.is_expand else 1)
        if not task.is_expand:
            # The targets of a reduce map are what its start makes of the original's channels.
            y = [_apply_map(rows, start) for rows, start in zip(y, starts, strict=True)]
        yield list(zip(x, y, strict=True))


def _apply_map(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns `rows @ matrix`; by indexing, which is exact and fast, if it only selects columns."""
    kept = matrix.argmax(axis=0)
    if np.array_equal(matrix, np.eye(len(matrix))[:, kept]):
        return rows[:, kept]
    return rows @ matrix.astype(rows.dtype)


def _block_rows(array: np.ndarray, unit: Unit, side: int) -> list[np.ndarray]:
    """Returns the rows `(…, channels)` of every block, those of all its positions together.

    Args:
        array: A tensor before or behind the map.
        unit: The map, whose blocks are `(positions, inputs, outputs)`.
        side: 1 if the array has the inputs' channels, 2 if it has those of the outputs.
    """
    blocks = unit.config["blocks"]
    ends = itertools.accumulate(block[0] * block[side] for block in blocks)
    parts = np.split(_rows(array, unit), list(ends)[:-1], axis=1)
    return [p.reshape(-1, block[side]) for p, block in zip(parts, blocks, strict=True)]


def _rows(array: np.ndarray, unit: Unit) -> np.ndarray:
    """Returns an array as `(everything else, channels)`, float32 or float64."""
    # NumPy would sum half precision in half precision.
    array = np.moveaxis(array, unit.config["axis"], -1)
    rows = array.reshape(-1, array.shape[-1])
    rows = rows if rows.dtype == np.float64 else rows.astype(np.float32, copy=False)
    if not np.isfinite(rows).all():
        raise ValueError(
            "`calibration` must lead to finite activations. "
            f"Received: NaN or infinite values at layer '{unit.name}'"
        )
    return rows


def _set_statistics(tasks: Sequence[Task], spool: Spool) -> None:
    """Gives a BatchNormalization the mean and variance of its inputs over all batches."""
    # Gamma and beta, if there are any, come first.
    *_, mean, variance = tasks[0].call.unit.weights
    statistics = ColumnStatistics(mean.shape[0])
    for task in tasks:
        (source,) = task.inputs.values()
        for batch in spool.batches(source):
            statistics.add(_rows(batch, task.call.unit))
    new, old = statistics.variance(), as_array(variance).astype(np.float64)
    mean.assign(statistics.mean())
    variance.assign((statistics.rows * new + _PRIOR_ROWS * old) / (statistics.rows + _PRIOR_ROWS))
