"""Computes a branched model as two networks, and fits each map when all it needs is there."""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_branch_prune.data import Spool
from keras_branch_prune.graph import Call, Graph, LayerRunner, Unit, Value, substitute
from keras_branch_prune.layers import AlphaBlend, ChannelMap, is_narrow

ORIGINAL, PRUNED = "original", "pruned"
"""The two runs: every blend replaced by the input of its original branch, or of its pruned one."""

Key = tuple[str, Value]
"""A run and a tensor in it. Tensors that are the same in both are those of the original."""


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One call in one run, and the tensors that it needs.

    Args:
        call: The call, reading tensors of its run's graph.
        run: The run.
        inputs: Tensor that the call reads → the key under which it is held.
        target: Key of the tensor that a map is fitted to; `None` for other calls.
        is_expand: Whether it is the call of an expand map.
        feeds_norm: Whether its output is read by BatchNormalization of the pruned branch only.
    """

    call: Call
    run: str
    inputs: Mapping[Value, Key]
    target: Key | None = None
    is_expand: bool = False
    feeds_norm: bool = False

    @property
    def needs(self) -> set[Key]:
        """Keys of all tensors that must have been computed before."""
        return {*self.inputs.values(), *([self.target] if self.target else [])}


def _tasks(graph: Graph) -> list[Task]:
    """Returns the calls of both runs in the order of the branched model.

    Interleaved so, both runs are at the same depth, and few tensors are held at a time.
    """
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
    """Yields the calls of the pruned run whose results differ from those of the original run.

    Args:
        graph: The graph of the pruned run.
        targets: Output of an expand map → the original's tensor at the same blend.
    """
    readers = graph.consumers()
    differs: set[Value] = set()
    for call in graph.calls:
        is_map = call.unit.cls is ChannelMap
        # What no map comes before is the same in both runs, and computed in the original one only.
        if differs.isdisjoint(call.inputs) and not is_map:
            continue
        output = call.outputs[0]
        inputs = {v: (PRUNED if v in differs else ORIGINAL, v) for v in call.inputs}
        target = (ORIGINAL, targets.get(output, call.inputs[0])) if is_map else None
        feeds_norm = all(is_narrow_norm(reader.unit) for reader in readers.get(output, ()))
        yield Task(call, PRUNED, inputs, target, output in targets, feeds_norm)
        differs.update(call.outputs)


class TwoRuns:
    """Does the tasks of both runs, each when the tensors that it needs are there.

    A layer that is fitted and used several times is fitted to all its uses at once, unless one use
    needs the result of another.

    Args:
        graph: The graph of a branched model.
        spool: Holds the tensors, at first those of the inputs in the original run.
        fits: Whether the layer of a task is to be fitted.
        fit: Fits the layer that some tasks share, before any of them is done.
    """

    def __init__(
        self,
        graph: Graph,
        spool: Spool,
        fits: Callable[[Task], bool],
        fit: Callable[[Sequence[Task], Spool], None],
    ):
        self._tasks = _tasks(graph)
        self._spool = spool
        self._fit = fit
        # Layers that still have to be fitted, with the number of their uses.
        self._uses = Counter(task.call.unit for task in self._tasks if fits(task))
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
                self._fit(tasks, self._spool)
                del self._uses[tasks[0].call.unit]
            for task in tasks:
                self._do(task)

    def _take(self, held: dict[Unit, list[Task]]) -> list[Task]:
        """Returns the next tasks to do; none if the next one is held for other uses of its layer.

        Args:
            held: Layer to be fitted → those of its uses that are ready.
        """
        if not self._ready:
            # A use of the layer needs the result of a held one, as in a loop over a shared layer:
            # the layer is fitted to those that are held.
            return held.pop(next(iter(held)))
        # The heap gives the first ready task, which keeps both runs at about the same depth.
        task = self._tasks[heapq.heappop(self._ready)]
        unit = task.call.unit
        if unit not in self._uses:
            return [task]
        held.setdefault(unit, []).append(task)
        return held.pop(unit) if len(held[unit]) == self._uses[unit] else []

    def _do(self, task: Task) -> None:
        """Runs the layer on all batches, drops tensors after their last use, and readies tasks."""
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
