"""Data as `fit` takes it: checked before hours are spent on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import tree


def require_samples(name: str, arrays: Any) -> int:
    """Returns the number of samples, or raises `ValueError` unless all arrays have the same."""
    counts = [len(array) for array in tree.flatten(arrays)]
    if len(set(counts)) != 1 or not counts[0]:
        raise ValueError(
            f"`{name}` must have as many samples in every array, one at least. Received: {counts}"
        )
    return counts[0]


def is_endless(data: Any) -> bool:
    """Whether a dataset says of itself that it has no end."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    # -1 is `tf.data.INFINITE_CARDINALITY`.
    return hasattr(data, "cardinality") and int(data.cardinality()) == -1


def iterate(dataset: Any) -> Iterable[Any]:
    """Returns what yields the batches of a dataset once."""
    if isinstance(dataset, keras.utils.PyDataset):
        return (dataset[index] for index in range(dataset.num_batches))
    return dataset


def check_data(name: str, data: Any) -> None:
    """Raises unless data can be read again for every epoch."""
    dataset = isinstance(data, keras.utils.PyDataset) or hasattr(data, "cardinality")
    if not dataset and not (isinstance(data, tuple) and len(data) in (2, 3)):
        raise TypeError(
            f"`{name}` must be (inputs, targets) or (inputs, targets, sample_weights) of arrays, "
            "a `tf.data.Dataset` or a `keras.utils.PyDataset`. "
            f"Received: {type(data).__name__}"
        )
    if is_endless(data):
        raise ValueError(f"`{name}` must be a dataset that ends. Received: an infinite one")


def first_samples(dataset: Any, count: int) -> Any:
    """Returns the first samples of a dataset as arrays `(inputs, targets)`."""
    found: list[Any] = []
    samples = 0
    for batch in iterate(dataset):
        pair = batch[:2] if isinstance(batch, tuple) else (batch,)
        found.append(tree.map_structure(keras.ops.convert_to_numpy, pair))
        samples += len(tree.flatten(found[-1])[0])
        if samples >= count:
            break
    return tree.map_structure(lambda *arrays: np.concatenate(arrays)[:count], *found)
