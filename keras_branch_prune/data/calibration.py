"""Reads calibration data in every form that `model.fit` takes, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_branch_prune.data.datasets import is_endless, iterate
from keras_branch_prune.graph import Graph, Value, is_finite

BATCH_SIZE = 32
"""Samples per batch where arrays are given and the model leaves the number open."""

Batch = tuple[list[np.ndarray], Any]
"""The inputs, flat, in the order of the graph's `input_values`; and the targets, or `None`."""


def read_batches(data: Any, graph: Graph) -> Iterator[Batch]:
    """Yields calibration data in batches, checked against the inputs of a model.

    Args:
        data: Inputs in the structure that the model takes: one array, or a list or dict of arrays,
            of shape `(samples, …)`; or `(inputs, targets)`, a tuple; or an iterable of batches of
            those: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator that ends.
        graph: The canonical graph of the model.

    Yields:
        Copies of the inputs, in the dtypes of the model's inputs, and the targets as they are.

    Raises:
        TypeError: If `data` has another structure than the inputs.
        ValueError: If shapes do not fit, a value is NaN or infinite, there is no sample, or the
            dataset has no end.
    """
    empty = True
    for element in _iterate_batches(data, graph.input_values[0].shape[0] or BATCH_SIZE):
        inputs, targets = _split_off_targets(element)
        arrays = _order_inputs(inputs, graph)
        _check_counts(arrays)
        if len(arrays[0]):
            empty = False
            yield arrays, targets
    if empty:
        raise ValueError("`calibration` must have at least one sample. Received: none")


def _iterate_batches(data: Any, batch_size: int) -> Iterable[Any]:
    """Returns the batches of a dataset, or the batches into which arrays are cut."""
    # Lists and dicts can be iterated too, but hold arrays, not batches.
    structure = isinstance(data, (list, tuple, Mapping, str)) or hasattr(data, "shape")
    is_dataset = isinstance(data, (Iterable, keras.utils.PyDataset))
    if structure or not is_dataset:
        return _slice_arrays(data, batch_size)
    if is_endless(data):
        raise ValueError("`calibration` must be a dataset that ends. Received: an infinite one")
    return iterate(data)


def _slice_arrays(data: Any, batch_size: int) -> Iterator[Any]:
    leaves = [leaf for leaf in tree.flatten(data) if leaf is not None]
    if not leaves or any(np.ndim(leaf) == 0 for leaf in leaves):
        raise TypeError(
            "`calibration` must be arrays, a dataset or a generator. "
            f"Received: {type(data).__name__}"
        )
    # Shorter arrays would be cut short without an error.
    _check_counts(leaves)
    for start in range(0, len(leaves[0]), batch_size):
        rows = slice(start, start + batch_size)
        yield tree.map_structure(lambda leaf, at=rows: None if leaf is None else leaf[at], data)


def _check_counts(arrays: list[Any]) -> None:
    counts = [len(array) for array in arrays]
    if len(set(counts)) > 1:
        raise ValueError(
            f"`calibration` must have as many samples in every array. Received: {counts}"
        )


def _split_off_targets(element: Any) -> tuple[Any, Any]:
    """Returns inputs and targets; unlike for Keras, a list is never a pair of those."""
    if not isinstance(element, tuple):
        return element, None
    if not 1 <= len(element) <= 3:
        raise TypeError(
            "`calibration` must have inputs, (inputs, targets) or (inputs, targets, "
            f"sample_weights). Received: a tuple of {len(element)}"
        )
    return element[0], element[1] if len(element) > 1 else None


def _order_inputs(inputs: Any, graph: Graph) -> list[np.ndarray]:
    """Returns the arrays of one batch in the order of the graph's inputs, checked."""
    names = [unit.name for unit in graph.input_units]
    structure = graph.inputs
    # A model that takes a list may be given a dict by the names of its inputs, too.
    if isinstance(inputs, Mapping):
        if not isinstance(structure, Mapping):
            structure = dict(zip(names, graph.input_values, strict=True))
        if not structure.keys() <= inputs.keys():
            raise TypeError(
                f"`calibration` must have the inputs {sorted(structure)}. "
                f"Received: {sorted(inputs)}"
            )
        inputs = {key: inputs[key] for key in structure}
    leaves, values = tree.flatten(inputs), tree.flatten(structure)
    if len(leaves) != len(values):
        raise TypeError(
            f"`calibration` must have the inputs {names}; a tuple is read as (inputs, targets). "
            f"Received: {len(leaves)} array(s)"
        )
    found = dict(zip(values, leaves, strict=True))
    named = zip(names, graph.input_values, strict=True)
    return [_check_array(name, value, found[value]) for name, value in named]


def _check_array(name: str, value: Value, leaf: Any) -> np.ndarray:
    array = np.asarray(ops.convert_to_numpy(leaf))
    if array.dtype.kind in "OSU":
        raise TypeError(
            f"`calibration` must be numbers for input '{name}'. Received: {array.dtype.name}"
        )
    sizes = zip(array.shape, value.shape, strict=False)
    if array.ndim != len(value.shape) or any(b is not None and a != b for a, b in sizes):
        raise ValueError(
            f"`calibration` must have the shape {value.shape} for input '{name}', batches of a "
            f"dataset too. Received: {array.shape}"
        )
    # A copy, as a generator may yield one array again and again with other values.
    cast = np.array(ops.convert_to_numpy(ops.cast(array, value.dtype)))
    # 1e5 is finite, but not as float16; and a cast of NaN to integers is some number.
    if not (is_finite(array) and is_finite(cast)):
        raise ValueError(
            f"`calibration` must be finite as {value.dtype}. "
            f"Received: NaN or infinite values for input '{name}'"
        )
    return cast
