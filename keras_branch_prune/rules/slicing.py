"""The rules of operations that take parts of a tensor: `x[...]`, `ops.slice` and `ops.split`.

Where they take a run of neighbouring channels, the groups are cut at its ends: `x[..., 2:6]` of 8
channels makes groups of 2, 4 and 2. Then each part consists of whole groups. If 1, 3 and 1 of their
channels stay, the narrow call is `x[..., 1:4]`.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_branch_prune.channels import ChannelTracker, Kept, Layout, Layouts
from keras_branch_prune.common import operation_of
from keras_branch_prune.graph import Call
from keras_branch_prune.rules.base import Rule, describe, keep_all_whole


class SlicingRule(abc.ABC):
    """An operation each of whose outputs is a part of its input."""

    @abc.abstractmethod
    def parts(self, call: Call, axis: int) -> list[Any]:
        """Returns what each output takes along an axis: a slice, or an integer index."""

    @abc.abstractmethod
    def with_runs(self, call: Call, axis: int, runs: list[tuple[int, int]]) -> Call:
        """Returns the call that takes other runs `(start, stop)` along an axis, one per output."""

    def output_axis(self, call: Call, axis: int) -> int:
        """Returns the number of an axis of the input in the outputs."""
        return axis

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> list[Layout | None]:
        """Returns the layout of every output."""
        layout, *others = layouts
        if others:
            reason = f"{describe(call.unit)} is given positions as a tensor"
            keep_all_whole(layouts, tracker, reason)
        if others or layout is None:
            return []
        axis = self.output_axis(call, layout.axis)
        parts = [_trace_part(call, layout, p, tracker) for p in self.parts(call, layout.axis)]
        return [part and dataclasses.replace(part, axis=axis) for part in parts]

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Takes the kept channels of each part."""
        parts = self.parts(call, layout.axis)
        if all(part == slice(None) for part in parts):
            return call
        # An end moves to the number of kept channels before it.
        indices, size = layout.kept_indices(kept), _size(call, layout.axis)
        ends = [np.searchsorted(indices, part.indices(size)[:2]) for part in parts]
        return self.with_runs(call, layout.axis, [(int(a), int(b)) for a, b in ends])


def _size(call: Call, axis: int) -> int:
    size = call.inputs[0].shape[axis]
    assert size is not None
    return size


def _trace_part(call: Call, layout: Layout, part: Any, tracker: ChannelTracker) -> Layout | None:
    """Returns the layout of one output; one that is no run of neighbours keeps the input whole."""
    size, where = _size(call, layout.axis), describe(call.unit)
    start, stop, step = part.indices(size) if isinstance(part, slice) else (0, 0, 0)
    if (start, stop, step) == (0, size, 1):
        return layout
    if step == 1 and start < stop:
        return tracker.cut(layout, start, stop, where)
    tracker.keep_whole(layout, f"{where} takes other channels than a run of neighbours")
    return None


class Indexing(SlicingRule):
    """`x[key]`; the key is an argument of the call."""

    def parts(self, call: Call, axis: int) -> list[Any]:
        """Returns the entry of the key for an axis."""
        entries, place = _entries(call, axis)
        return [entries[place]]

    def output_axis(self, call: Call, axis: int) -> int:
        """Counts the new axes (`None` in the key), and not those at an integer index."""
        entries, place = _entries(call, axis)
        return sum(not isinstance(entry, int) for entry in entries[:place])

    def with_runs(self, call: Call, axis: int, runs: list[tuple[int, int]]) -> Call:
        """Returns the call with another key."""
        entries, place = _entries(call, axis)
        entries[place] = slice(*runs[0])
        return dataclasses.replace(call, args=(call.args[0], tuple(entries)))


def _entries(call: Call, axis: int) -> tuple[list[Any], int]:
    """Returns a key with an entry for every axis, and the place of the entry of `axis`.

    For `x[:, None, ...]` of rank 3 the entries are `[:, None, :, :]`, and axis 1 is at place 2.
    """
    tensor, key = call.args
    entries = list(key) if isinstance(key, (list, tuple)) else [key]
    if Ellipsis not in entries:
        entries.append(Ellipsis)
    named = sum(entry is not None for entry in entries) - 1
    place = entries.index(Ellipsis)
    entries[place : place + 1] = [slice(None)] * (len(tensor.shape) - named)
    places = [place for place, entry in enumerate(entries) if entry is not None]
    return entries, places[axis]


class WindowSlicing(SlicingRule):
    """`ops.slice(x, starts, shape)`: Keras passes `starts` in the call, `shape` in the config."""

    def parts(self, call: Call, axis: int) -> list[Any]:
        """Returns the window along an axis; a size of -1 reaches to the end."""
        start, size = int(call.args[1][axis]), call.unit.config["shape"][axis]
        return [slice(start, None if size == -1 else start + size)]

    def with_runs(self, call: Call, axis: int, runs: list[tuple[int, int]]) -> Call:
        """Returns the call with another start and shape."""
        # One output, so one run; a size of -1 becomes the number that it stands for.
        ((start, stop),) = runs
        starts, shape = list(call.args[1]), list(call.unit.config["shape"])
        starts[axis], shape[axis] = start, stop - start
        call = call.replace_unit(config={"shape": tuple(shape)})
        return dataclasses.replace(call, args=(call.args[0], tuple(starts)))


class Splitting(SlicingRule):
    """`ops.split`, into equal parts or at given offsets."""

    def parts(self, call: Call, axis: int) -> list[Any]:
        """Returns the runs between the offsets; along other axes every output takes all."""
        config, rank, size = call.unit.config, len(call.inputs[0].shape), len(call.outputs)
        if config["axis"] % rank != axis or size == 1:
            return [slice(None)] * size
        ends = config["indices_or_sections"]
        if isinstance(ends, int):
            step = _size(call, axis) // ends
            ends = range(step, step * ends, step)
        return [slice(*run) for run in itertools.pairwise((0, *ends, None))]

    def with_runs(self, call: Call, axis: int, runs: list[tuple[int, int]]) -> Call:
        """Returns the call that splits at other offsets; equal parts may have become unequal."""
        config = {"indices_or_sections": tuple(stop for _, stop in runs[:-1])}
        return call.replace_unit(config=config)


def slicing_rules() -> dict[type, Rule]:
    """Returns the rules by class."""
    x = keras.KerasTensor((2, 4), dtype="float32")
    examples = {
        Indexing(): x[0],
        WindowSlicing(): ops.slice(x, (0, 0), (1, 2)),
        Splitting(): ops.split(x, 2)[0],
    }
    return {type(operation_of(t)): rule for rule, t in examples.items()}
