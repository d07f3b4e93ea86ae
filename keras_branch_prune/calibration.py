"""Reads calibration data in every form that `model.fit` takes, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_branch_prune.graph import Graph, Value

BATCH_SIZE = 32
"""Samples per batch where arrays are given."""

Batch = tuple[list[np.ndarray], Any]
"""The inputs, flat, in the order of the graph's `input_values`; and the targets, or `None`."""


def read_batches(data: Any, graph: Graph) -> Iterator[Batch]:
    """Yields calibration data in batches, checked against the inputs of a model.

    Args:
        data: Inputs in the structure that the model takes: one array, or a list or dict of arrays,
            of shape `(samples, …)`; or `(inputs, targets)`, a tuple; or an iterable of batches of
            those: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator that ends.
        graph: The canonical graph of the model.

    Raises:
        TypeError: If `data` has another structure than the inputs.
        ValueError: If shapes do not fit, a value is NaN or infinite, or there is no sample.
    """
    empty = True
    for element in _elements(data):
        inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(element)
        arrays = _flat(inputs, graph)
        sizes = {len(array) for array in arrays}
        if len(sizes) > 1:
            raise ValueError(
                "`calibration` must have as many samples for every input. "
                f"Received: {[len(array) for array in arrays]}"
            )
        if sizes != {0}:
            empty = False
            yield arrays, targets
    if empty:
        raise ValueError("`calibration` must have at least one sample. Received: none")


def _elements(data: Any) -> Iterable[Any]:
    """Returns batches of what `model.fit` would be given."""
    if isinstance(data, keras.utils.PyDataset):
        return (data[index] for index in range(data.num_batches or 0))
    if hasattr(data, "element_spec") or isinstance(data, Iterator):
        return data
    return _sliced(data)


def _sliced(data: Any) -> Iterator[Any]:
    leaves = tree.flatten(data)
    if not leaves or any(np.ndim(leaf) == 0 for leaf in leaves):
        raise TypeError(
            "`calibration` must be arrays, a dataset or a generator. "
            f"Received: {type(data).__name__}"
        )
    samples = max(len(leaf) for leaf in leaves)
    for start in range(0, samples, BATCH_SIZE):
        yield tree.map_structure(lambda leaf, at=start: leaf[at : at + BATCH_SIZE], data)


def _flat(inputs: Any, graph: Graph) -> list[np.ndarray]:
    """Returns the arrays of one batch in the order of the graph's inputs, checked."""
    names = [unit.name for unit in graph.input_units]
    if isinstance(inputs, Mapping):
        by_name = dict(zip(names, graph.input_values, strict=True))
        keys = graph.inputs if isinstance(graph.inputs, Mapping) else by_name
        if not keys.keys() <= inputs.keys():
            raise TypeError(
                f"`calibration` must have the inputs {sorted(keys)}. Received: {sorted(inputs)}"
            )
        leaves = {value: inputs[key] for key, value in keys.items()}
        flat = [leaves[value] for value in graph.input_values]
    else:
        flat = tree.flatten(inputs)
        if len(flat) != len(names):
            raise TypeError(
                f"`calibration` must have {len(names)} inputs, {names}; a tuple is read as "
                f"(inputs, targets). Received: {len(flat)} arrays"
            )
    arguments = zip(names, graph.input_values, flat, strict=True)
    return [_checked(name, value, leaf) for name, value, leaf in arguments]


def _checked(name: str, value: Value, leaf: Any) -> np.ndarray:
    array = np.asarray(ops.convert_to_numpy(leaf))
    fits = array.ndim == len(value.shape) and all(
        expected in (None, size) for size, expected in zip(array.shape, value.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`calibration` must have the shape {value.shape} for input '{name}'. "
            f"Received: {array.shape}"
        )
    array = np.asarray(ops.convert_to_numpy(ops.cast(array, value.dtype)))
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise ValueError(
            f"`calibration` must be finite. Received: NaN or infinite values for input '{name}'"
        )
    return array
