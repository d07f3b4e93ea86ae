"""Checks of data as `fit` takes it, before hours are spent on it, and ways to read it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import tree


def require_samples(name: str, arrays: Any) -> int:
    """Returns the number of samples, which must be the same in all arrays.

    Args:
        name: Name of the argument, for the message.
        arrays: One array of shape `(samples, …)`, or several in any nesting.

    Raises:
        ValueError: If the arrays have different numbers of samples, or none.
    """
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
    """Returns an iterable over the batches of a dataset, for one epoch."""
    if isinstance(dataset, keras.utils.PyDataset):
        return (dataset[index] for index in range(dataset.num_batches))
    return dataset


def check_data(name: str, data: Any) -> None:
    """Checks that data can be read again for every epoch, which a generator cannot.

    Args:
        name: Name of the argument, for the message.
        data: `(inputs, targets)`, `(inputs, targets, sample_weights)`, a `tf.data.Dataset` or a
            `keras.utils.PyDataset`.

    Raises:
        TypeError: If it is something else.
        ValueError: If the dataset has no end.
    """
    dataset = isinstance(data, keras.utils.PyDataset) or hasattr(data, "cardinality")
    if not dataset and not (isinstance(data, tuple) and len(data) in (2, 3)):
        raise TypeError(
            f"`{name}` must be (inputs, targets) or (inputs, targets, sample_weights) of arrays, "
            "a `tf.data.Dataset` or a `keras.utils.PyDataset`. "
            f"Received: {type(data).__name__}"
        )
    if is_endless(data):
        raise ValueError(f"`{name}` must be a dataset that ends. Received: an infinite one")


def read_first_samples(dataset: Any, count: int) -> Any:
    """Returns the first `count` samples of a dataset as arrays: `(inputs, targets)`.

    Without targets it is `(inputs,)`; if the dataset is shorter, all of its samples are returned.
    """
    found: list[Any] = []
    samples = 0
    for batch in iterate(dataset):
        pair = batch[:2] if isinstance(batch, tuple) else (batch,)
        found.append(tree.map_structure(keras.ops.convert_to_numpy, pair))
        samples += len(tree.flatten(found[-1])[0])
        if samples >= count:
            break
    return tree.map_structure(lambda *arrays: np.concatenate(arrays)[:count], *found)
