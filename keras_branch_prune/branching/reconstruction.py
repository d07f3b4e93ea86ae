"""Fits the pruned branch of a branched model to the original, without labels or training.

The model is walked once, layer by layer, for all calibration batches: in one run as the original
network, in the other as the pruned one. Every map is fitted when the pruned run reaches it, on what
the pruned network has computed so far, so that later maps make up for the errors of earlier ones:

* a reduce map R gets the pruned network's channels and is fitted to the original's selected ones;
* the BatchNormalization layers of the pruned branch get the statistics of their new inputs;
* an expand map E gets the pruned branch's channels and is fitted to the original's channels.

A tensor is kept as long as a later call reads it, and fits read sums over batches: what grows with
the number of samples are files. All fits are ridge regressions. Zhang et al. (2016) and He et al.
(2017) fit in the same order, layer by layer, on the approximated network's own outputs.
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
"""Rows for which the old variance of a BatchNormalization counts, lest one sample make it zero."""


@dataclasses.dataclass(frozen=True)
class Fitting:
    """What is fitted, and how.

    Args:
        expand: Whether expand maps are fitted.
        reduce: Whether reduce maps are fitted.
        statistics: Whether BatchNormalization layers of the pruned branch get new statistics.
        ridge: Penalty of a map's distance from its start, relative to its inputs' mean square.

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
        branched: A model as `branch` makes it, at any α; its reduce maps say what is aimed at.
        data: Calibration data, see `read_batches`.
        fitting: What is fitted, and how.
        memory_mib: How much of the activations is held in memory, MiB; the rest goes to files.

    Returns:
        Name of each fitted expand map → |o − p|² / |o|² of what the branches hand to its blends.

    Raises:
        TypeError: If `data` has another structure than the inputs.
        ValueError: If `branched` has no blends, or `data` is not usable (see `read_batches`) or
            leads to NaN or infinite activations.
    """
    graph = canonical(branched)
    if not any(call.unit.cls is AlphaBlend for call in graph.calls):
        raise ValueError(f"`branched` must be made by `branch`. Received: '{graph.name}'")
    fitter = MapFitter(fitting or Fitting())
    with Spool(memory_mib) as spool:
        for inputs, _ in read_batches(data, graph):
            for value, array in zip(graph.input_values, inputs, strict=True):
                spool.append((ORIGINAL, value), array)
        TwoRuns(graph, spool, fitter).run()
    return fitter.errors


class MapFitter:
    """Fits the unit of some tasks, by its class."""

    def __init__(self, fitting: Fitting):
        self._fitting = fitting
        self.errors: dict[str, float] = {}

    def fits(self, task: Task) -> bool:
        """Whether the unit of a task is one to be fitted."""
        if task.run == ORIGINAL:
            return False
        if task.call.unit.cls is ChannelMap:
            return self._fitting.expand if task.is_expand else self._fitting.reduce
        return self._fitting.statistics and is_narrow_norm(task.call.unit)

    def fit(self, tasks: Sequence[Task], spool: Spool) -> None:
        """Fits the unit that the tasks share to all of them."""
        if tasks[0].call.unit.cls is not ChannelMap:
            _set_statistics(tasks, spool)
        # Where both networks still compute the same, a reduce map is right as it is.
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
            blocks = zip(fits, unit.config["blocks"], strict=True)
            biases = [np.tile(np.asarray(fit.bias), positions) for fit, (positions, *_) in blocks]
            unit.weights[-1].assign(np.concatenate(biases))
        if is_expand:
            energy = sum(fit.energy for fit in fits)
            self.errors[unit.name] = sum(fit.error for fit in fits) / energy if energy else 0.0

    def _has_intercept(self, tasks: Sequence[Task]) -> bool:
        """Whether a map has a bias, or new statistics of what reads it take the place of one."""
        if tasks[0].call.unit.config["use_bias"]:
            return True
        return self._fitting.statistics and all(task.feeds_norm for task in tasks)


def _map_batches(
    task: Task, starts: Sequence[np.ndarray], spool: Spool
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Yields for every batch the rows that each block of a map gets and those it should give."""
    assert task.target is not None
    unit, (source,) = task.call.unit, task.inputs.values()
    for inputs, targets in zip(spool.batches(source), spool.batches(task.target), strict=True):
        x = _block_rows(inputs, unit, 1)
        y = _block_rows(targets, unit, 2 if task.is_expand else 1)
        if not task.is_expand:
            # What a reduce map should give is what it makes of the original's channels.
            y = [_apply_map(rows, start) for rows, start in zip(y, starts, strict=True)]
        yield list(zip(x, y, strict=True))


def _apply_map(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns `rows @ matrix`, by indexing if the matrix only selects columns."""
    kept = matrix.argmax(axis=0)
    if np.array_equal(matrix, np.eye(len(matrix))[:, kept]):
        return rows[:, kept]
    return rows @ matrix.astype(rows.dtype)


def _block_rows(array: np.ndarray, unit: Unit, side: int) -> list[np.ndarray]:
    """Returns the rows `(…, channels)` of every block of a map; `side` 1: inputs, 2: outputs."""
    blocks = unit.config["blocks"]
    ends = itertools.accumulate(block[0] * block[side] for block in blocks)
    parts = np.split(_rows(array, unit), list(ends)[:-1], axis=1)
    return [p.reshape(-1, block[side]) for p, block in zip(parts, blocks, strict=True)]


def _rows(array: np.ndarray, unit: Unit) -> np.ndarray:
    """Returns an array as `(everything else, channels)` in a dtype that NumPy can sum."""
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
    *_, mean, variance = tasks[0].call.unit.weights
    statistics = ColumnStatistics(mean.shape[0])
    for task in tasks:
        (source,) = task.inputs.values()
        for batch in spool.batches(source):
            statistics.add(_rows(batch, task.call.unit))
    new, old = statistics.variance(), as_array(variance).astype(np.float64)
    mean.assign(statistics.mean())
    variance.assign((statistics.rows * new + _PRIOR_ROWS * old) / (statistics.rows + _PRIOR_ROWS))
