"""Fits the pruned branch of a branched model to the original, without labels or training.

The model is walked once, layer by layer, for all calibration batches: in one run as the original
network, in the other as the pruned one. Every map is fitted when the pruned run reaches it, on what
the pruned network has computed so far, so that later maps make up for the errors of earlier ones:

* a reduce map R gets the pruned network's channels and is fitted to the original's selected ones;
* the BatchNormalization layers of the pruned branch get the statistics of their new inputs;
* an expand map E gets the pruned branch's channels and is fitted to the original's channels.

All fits are ridge regressions from sums over batches (Zhang et al. 2016 and He et al. 2017 fit in
the same order, layer by layer, on the approximated network's own outputs).
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_branch_prune.branch import PRUNED_SUFFIX
from keras_branch_prune.calibration import read_batches
from keras_branch_prune.canonical import canonical
from keras_branch_prune.graph import Call, Graph, LayerRunner, Unit, Value, as_array, substitute
from keras_branch_prune.layers import AlphaBlend, ChannelMap
from keras_branch_prune.least_squares import Moments
from keras_branch_prune.spool import Spool

_ORIGINAL, _PRUNED = "original", "pruned"


@dataclasses.dataclass(frozen=True)
class Fitting:
    """What is fitted, and how.

    Args:
        expand: Whether expand maps are fitted.
        reduce: Whether reduce maps are fitted.
        statistics: Whether BatchNormalization layers of the pruned branch get new statistics.
        ridge: Penalty of a map's distance from its start, relative to its inputs' mean square.
    """

    expand: bool = True
    reduce: bool = True
    statistics: bool = True
    ridge: float = 1e-3


def reconstruct(
    branched: keras.Model, data: Any, fitting: Fitting | None = None, memory_mib: float = 256
) -> dict[str, float]:
    """Fits the maps and statistics of the pruned branch in place.

    Args:
        branched: A model as `branch` makes it, whose reduce maps select channels.
        data: Calibration data, see `read_batches`.
        fitting: What is fitted, and how.
        memory_mib: How much of the activations is held in memory, MiB; the rest goes to files.

    Returns:
        Name of each expand map → |o − p|² / |o|² of what the branches hand to its blends.
    """
    graph = canonical(branched)
    with Spool(memory_mib) as spool:
        for inputs, _ in read_batches(data, graph):
            for value, array in zip(graph.input_values, inputs, strict=True):
                spool.append((_ORIGINAL, value), array)
        fitter = _Fitter(fitting or Fitting())
        _Walk(graph, spool, fitter).run()
    return fitter.errors


_Key = tuple[str, Value]
"""Run and tensor."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Task:
    """One call in one run, and what must be there before.

    Args:
        call: The call, reading tensors of its run's graph.
        run: The run.
        inputs: Where each tensor that the call reads is found.
        target: Where the tensor is found that a map is fitted to.
        is_expand: Whether it is the call of an expand map.
        feeds_norm: Whether all that reads its output is BatchNormalization of the pruned branch.
    """

    call: Call
    run: str
    inputs: Mapping[Value, _Key]
    target: _Key | None = None
    is_expand: bool = False
    feeds_norm: bool = False

    @property
    def needs(self) -> set[_Key]:
        """All that must be there before."""
        return {*self.inputs.values(), *([self.target] if self.target else [])}


def _tasks(graph: Graph) -> list[_Task]:
    """Returns the calls of both runs; the pruned one has those only that differ from the other."""
    blends = [call for call in graph.calls if call.unit.cls is AlphaBlend]
    original = substitute(graph, {c.outputs[0]: c.inputs[1] for c in blends})
    pruned = substitute(graph, {c.outputs[0]: c.inputs[2] for c in blends})
    tasks = [
        _Task(call, _ORIGINAL, {value: (_ORIGINAL, value) for value in call.inputs})
        for call in original.calls
    ]
    targets = {call.inputs[2]: call.inputs[1] for call in blends}
    readers = pruned.consumers()
    differs: set[Value] = set()
    for call in pruned.calls:
        is_map = call.unit.cls is ChannelMap
        if differs.isdisjoint(call.inputs) and not is_map:
            continue
        differs.update(call.outputs)
        inputs = {v: (_PRUNED if v in differs else _ORIGINAL, v) for v in call.inputs}
        is_expand = call.outputs[0] in targets
        target = (_ORIGINAL, targets.get(call.outputs[0], call.inputs[0])) if is_map else None
        feeds_norm = all(_is_narrow_norm(c.unit) for c in readers.get(call.outputs[0], ()))
        tasks.append(_Task(call, _PRUNED, inputs, target, is_expand, feeds_norm))
    return tasks


class _Fitter:
    """Fits the unit of some tasks, by its class."""

    def __init__(self, fitting: Fitting):
        self._fitting = fitting
        self.errors: dict[str, float] = {}

    def fits(self, task: _Task) -> bool:
        """Whether the unit of a task is one to be fitted."""
        if task.run == _ORIGINAL:
            return False
        if task.call.unit.cls is ChannelMap:
            return self._fitting.expand if task.is_expand else self._fitting.reduce
        return self._fitting.statistics and _is_narrow_norm(task.call.unit)

    def fit(self, tasks: Sequence[_Task], spool: Spool) -> None:
        """Fits the unit that the tasks share to all of them."""
        unit = tasks[0].call.unit
        if unit.cls is not ChannelMap:
            _set_statistics(unit, tasks, spool)
        elif tasks[0].is_expand:
            self._fit_expand(unit, tasks, spool)
        else:
            self._fit_reduce(unit, tasks, spool)

    def _fit_expand(self, unit: Unit, tasks: Sequence[_Task], spool: Spool) -> None:
        moments = [Moments(inputs, outputs) for _, inputs, outputs in unit.config["blocks"]]
        for task in tasks:
            for inputs, targets in _pairs(task, spool):
                rows = _block_rows(inputs, unit, 1), _block_rows(targets, unit, 2)
                for part, x, y in zip(moments, *rows, strict=True):
                    part.add(x, y)
        fits = [part.solve(self._fitting.ridge) for part in moments]
        for weight, fit in zip(unit.weights, fits, strict=True):
            weight.assign(fit.matrix)
        energy = sum(fit.energy for fit in fits)
        self.errors[unit.name] = sum(fit.error for fit in fits) / energy if energy else 0.0

    def _fit_reduce(self, unit: Unit, tasks: Sequence[_Task], spool: Spool) -> None:
        kernels = [as_array(weight) for weight in unit.weights[: len(unit.config["blocks"])]]
        moments = [Moments(*kernel.shape) for kernel in kernels]
        for task in tasks:
            for inputs, targets in _pairs(task, spool):
                rows = _block_rows(inputs, unit, 1), _block_rows(targets, unit, 1)
                for part, kernel, x, y in zip(moments, kernels, *rows, strict=True):
                    part.add(x, y @ kernel)
        centred = unit.config["use_bias"] or all(task.feeds_norm for task in tasks)
        fits = [
            part.solve(self._fitting.ridge, kernel, centred)
            for part, kernel in zip(moments, kernels, strict=True)
        ]
        for weight, fit in zip(unit.weights, fits, strict=False):
            weight.assign(fit.matrix)
        if unit.config["use_bias"]:
            unit.weights[-1].assign(np.concatenate([fit.bias for fit in fits]))


class _Walk:
    """Does the tasks in order, each as soon as all it needs is there.

    A map that is used several times is fitted to all its uses, unless one waits for another.
    """

    def __init__(self, graph: Graph, spool: Spool, fitter: _Fitter):
        self._tasks = _tasks(graph)
        self._spool = spool
        self._fitter = fitter
        self._done = {(_ORIGINAL, value) for value in graph.input_values}
        self._uses = Counter(task.call.unit for task in self._tasks if fitter.fits(task))
        self._left = Counter(key for task in self._tasks for key in task.needs)
        self._waiting: dict[_Key, list[int]] = {}
        self._missing: list[int] = []
        self._ready: list[int] = []

    def run(self) -> None:
        """Does all tasks."""
        for index, task in enumerate(self._tasks):
            self._missing.append(len(task.needs - self._done))
            for key in task.needs - self._done:
                self._waiting.setdefault(key, []).append(index)
        self._ready = [index for index, missing in enumerate(self._missing) if not missing]
        held: dict[Unit, list[_Task]] = {}
        while self._ready or held:
            tasks = self._take(held)
            if tasks and tasks[0].call.unit in self._uses:
                self._fitter.fit(tasks, self._spool)
                del self._uses[tasks[0].call.unit]
            for task in tasks:
                self._do(task)

    def _take(self, held: dict[Unit, list[_Task]]) -> list[_Task]:
        """Returns the next tasks to do; none if the next one waits for others of its map."""
        if not self._ready:
            return held.pop(next(iter(held)))
        task = self._tasks[heapq.heappop(self._ready)]
        unit = task.call.unit
        if unit not in self._uses:
            return [task]
        held.setdefault(unit, []).append(task)
        return held.pop(unit) if len(held[unit]) == self._uses[unit] else []

    def _do(self, task: _Task) -> None:
        """Runs the layer on all batches and drops what nobody reads any more."""
        layer, call = LayerRunner(task.call), task.call
        kept = [value for value in call.outputs if self._left[task.run, value]]
        for batch in zip(*(self._spool.batches(key) for key in task.inputs.values()), strict=True):
            arrays = dict(zip(task.inputs, batch, strict=True))
            args, kwargs = tree.map_structure(
                lambda leaf, at=arrays: at[leaf] if isinstance(leaf, Value) else leaf,
                (call.args, dict(call.kwargs)),
            )
            for value, array in zip(call.outputs, layer(*args, **kwargs), strict=True):
                if value in kept:
                    self._spool.append((task.run, value), array)
        self._left.subtract(task.needs)
        for key in task.needs:
            if not self._left[key]:
                self._spool.drop(key)
        for value in call.outputs:
            for index in self._waiting.get((task.run, value), ()):
                self._missing[index] -= 1
                if not self._missing[index]:
                    heapq.heappush(self._ready, index)


def _pairs(task: _Task, spool: Spool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the batches of what a task reads and of what it is fitted to."""
    assert task.target is not None
    (source,) = task.inputs.values()
    return zip(spool.batches(source), spool.batches(task.target), strict=True)


def _block_rows(array: np.ndarray, unit: Unit, side: int) -> Iterator[np.ndarray]:
    """Yields the rows `(…, channels)` of every block of a map; `side` 1: inputs, 2: outputs."""
    array, start = np.moveaxis(array, unit.config["axis"], -1), 0
    for block in unit.config["blocks"]:
        end = start + block[0] * block[side]
        rows = array[..., start:end].reshape(-1, block[side])
        yield rows if rows.dtype == np.float64 else rows.astype(np.float32, copy=False)
        start = end


def _is_narrow_norm(unit: Unit) -> bool:
    is_norm = unit.cls is keras.layers.BatchNormalization
    return is_norm and unit.name.endswith(PRUNED_SUFFIX)


def _set_statistics(unit: Unit, tasks: Sequence[_Task], spool: Spool) -> None:
    """Gives a BatchNormalization the mean and variance of its inputs over all batches."""
    size = unit.weights[-1].shape[0]
    count, total, squares = 0, np.zeros(size), np.zeros(size)
    for task in tasks:
        (source,) = task.inputs.values()
        for batch in spool.batches(source):
            rows = np.moveaxis(batch, unit.config["axis"], -1).reshape(-1, size)
            count += len(rows)
            total += rows.sum(axis=0, dtype=np.float64)
            squares += np.square(rows, dtype=np.float64).sum(axis=0)
    mean = total / count
    unit.weights[-2].assign(mean)
    unit.weights[-1].assign(np.maximum(squares / count - np.square(mean), 0.0))
