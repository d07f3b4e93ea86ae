"""Arrays in an order that depends on the seed and the epoch only."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import tree

from keras_branch_prune.data.datasets import require_samples


class ShuffledArrays(keras.utils.PyDataset):
    """Batches of arrays, shuffled anew for every epoch.

    A resumed training sees the samples in the same order as an undisturbed one. With
    `fit(shuffle=True)` it does not, as that order depends on how long this process has trained.

    Args:
        arrays: `(inputs, targets)` or `(inputs, targets, sample_weights)`, each an array of shape
            `(samples, …)` or a structure of such.
        batch_size: Samples per batch; the last batch may be smaller.
        seed: Seed of the order.
        epoch: The epoch to begin with, counted from 0.

    Raises:
        ValueError: If the numbers of samples differ, or are 0.
    """

    def __init__(self, arrays: tuple[Any, ...], batch_size: int, seed: int = 0, epoch: int = 0):
        super().__init__()
        self._arrays = tree.map_structure(np.asarray, arrays)
        self._samples = require_samples("train", self._arrays)
        self._batch_size, self._seed = batch_size, seed
        self._epoch = epoch
        self._order = self._shuffle()

    def __len__(self) -> int:
        return -(-self._samples // self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return tree.map_structure(lambda array: array[chosen], self._arrays)

    def on_epoch_end(self) -> None:
        """Shuffles for the next epoch."""
        self._epoch += 1
        self._order = self._shuffle()

    def _shuffle(self) -> np.ndarray:
        # Seeded by both, so that an epoch's order does not depend on the epochs before it.
        return np.random.default_rng((self._seed, self._epoch)).permutation(self._samples)
