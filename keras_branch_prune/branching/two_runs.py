"""A branched model run as two networks, and its maps in an order in which they can be fitted."""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import keras
from keras import ops

from keras_branch_prune.data import Spool
from keras_branch_prune.graph import Call, Graph, LayerRunner, Unit, Value, substitute
from keras_branch_prune.layers import AlphaBlend, ChannelMap, is_narrow

ORIGINAL, PRUNED = "original", "pruned"


Key = tuple[str, Value]
"""Run and tensor."""


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
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
    inputs: Mapping[Value, Key]
    target: Key | None = None
    is_expand: bool = False
    feeds_norm: bool = False

    @property
    def needs(self) -> set[Key]:
        """All that must be there before."""
        return {*self.inputs.values(), *([self.target] if self.target else [])}


def _tasks(graph: Graph) -> list[Task]:
    """Returns the calls of both runs side by side, so that few tensors are needed at a time."""
    blends = [call for call in graph.calls if call.unit.cls is AlphaBlend]
    original = substitute(graph, {c.outputs[0]: c.inputs[1] for c in blends})
    pruned = substitute(graph, {c.outputs[0]: c.inputs[2] for c in blends})
    targets = {call.inputs[2]: call.inputs[1] for call in blends}
    tasks = [
        Task(call, ORIGINAL, {value: (ORIGINAL, value) for value in call.inputs})
        for call in original.calls
    ]
    tasks += _pruned_tasks(pruned, targets)
    place = {call.outputs[0]: place for place, call in enumerate(graph.calls)}
    return sorted(tasks, key=lambda task: place[task.call.outputs[0]])


def _pruned_tasks(graph: Graph, targets: Mapping[Value, Value]) -> Iterator[Task]:
    """Yields the calls of the pruned run whose results differ from those of the original one."""
    readers = graph.consumers()
    differs: set[Value] = set()
    for call in graph.calls:
        is_map = call.unit.cls is ChannelMap
        if differs.isdisjoint(call.inputs) and not is_map:
            continue
        output = call.outputs[0]
        inputs = {v: (PRUNED if v in differs else ORIGINAL, v) for v in call.inputs}
        target = (ORIGINAL, targets.get(output, call.inputs[0])) if is_map else None
        feeds_norm = all(is_narrow_norm(reader.unit) for reader in readers.get(output, ()))
        yield Task(call, PRUNED, inputs, target, output in targets, feeds_norm)
        differs.update(call.outputs)


class Fitter(Protocol):
    """What fits the units of tasks."""

    def fits(self, task: Task) -> bool:
        """Whether the unit of a task is one to be fitted."""
        ...

    def fit(self, tasks: Sequence[Task], spool: Spool) -> None:
        """Fits the unit that the tasks share to all of them."""
        ...


class TwoRuns:
    """Does the tasks in order, each as soon as all it needs is there.

    A map that is used several times is fitted to all its uses, unless one waits for another.
    """

    def __init__(self, graph: Graph, spool: Spool, fitter: Fitter):
        self._tasks = _tasks(graph)
        self._spool = spool
        self._fitter = fitter
        self._uses = Counter(task.call.unit for task in self._tasks if fitter.fits(task))
        self._readers = Counter(key for task in self._tasks for key in task.needs)
        self._waiting: dict[Key, list[int]] = {}
        self._missing: list[int] = []
        for index, task in enumerate(self._tasks):
            missing = task.needs - {(ORIGINAL, value) for value in graph.input_values}
            self._missing.append(len(missing))
            for key in missing:
                self._waiting.setdefault(key, []).append(index)
        self._ready = [index for index, missing in enumerate(self._missing) if not missing]

    def run(self) -> None:
        """Does all tasks."""
        held: dict[Unit, list[Task]] = {}
        while self._ready or held:
            tasks = self._take(held)
            if tasks and tasks[0].call.unit in self._uses:
                self._fitter.fit(tasks, self._spool)
                del self._uses[tasks[0].call.unit]
            for task in tasks:
                self._do(task)

    def _take(self, held: dict[Unit, list[Task]]) -> list[Task]:
        """Returns the next tasks to do; none if the next one waits for others of its map."""
        if not self._ready:
            # The uses of a map wait for each other, as in a loop over a shared layer: those that
            # are ready are fitted without the rest.
            return held.pop(next(iter(held)))
        task = self._tasks[heapq.heappop(self._ready)]
        unit = task.call.unit
        if unit not in self._uses:
            return [task]
        held.setdefault(unit, []).append(task)
        return held.pop(unit) if len(held[unit]) == self._uses[unit] else []

    def _do(self, task: Task) -> None:
        """Runs the layer on all batches, drops what nobody reads any more, readies what can be."""
        layer, call = LayerRunner(task.call), task.call
        for tensors in self._batches(task):
            args, kwargs = call.bind(tensors.__getitem__)
            for value, tensor in zip(call.outputs, layer(*args, **kwargs), strict=True):
                if self._readers[task.run, value]:
                    self._spool.append((task.run, value), ops.convert_to_numpy(tensor))
        self._readers.subtract(task.needs)
        for key in task.needs:
            if not self._readers[key]:
                self._spool.drop(key)
        for value in call.outputs:
            for index in self._waiting.get((task.run, value), ()):
                self._missing[index] -= 1
                if not self._missing[index]:
                    heapq.heappush(self._ready, index)

    def _batches(self, task: Task) -> Iterator[dict[Value, Any]]:
        """Yields the tensors that a task reads, batch by batch."""
        arrays = (self._spool.batches(key) for key in task.inputs.values())
        for batch in zip(*arrays, strict=True):
            yield dict(zip(task.inputs, map(ops.convert_to_tensor, batch), strict=True))


def is_narrow_norm(unit: Unit) -> bool:
    """Whether a unit is a BatchNormalization of the pruned branch."""
    return unit.cls is keras.layers.BatchNormalization and is_narrow(unit.name)
