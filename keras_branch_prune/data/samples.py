"""Samples that are kept on disk and read in any order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from keras_branch_prune.data.calibration import Batch
from keras_branch_prune.data.spool import Spool


class Samples:
    """Calibration inputs sample by sample, so that they can be shuffled.

    Args:
        spool: Where they are kept.
        batches: Batches as `read_batches` yields them.

    Raises:
        ValueError: If there are fewer than two samples.
    """

    def __init__(self, spool: Spool, batches: Iterable[Batch]):
        self._spool = spool
        self._shapes: list[tuple[tuple[int, ...], ...]] = []
        for arrays, _ in batches:
            for sample in zip(*arrays, strict=True):
                for position, part in enumerate(sample):
                    # With an axis of one sample, so that a batch is a concatenation.
                    self._spool.append((len(self._shapes), position), part[None])
                self._shapes.append(tuple(part.shape for part in sample))
        if len(self._shapes) < 2:
            raise ValueError(
                "`data` must have at least two samples, of which one is held out. "
                f"Received: {len(self._shapes)}"
            )

    def __len__(self) -> int:
        return len(self._shapes)

    def grouped(self, order: Iterable[int], size: int) -> list[list[int]]:
        """Returns the samples in batches of one shape each.

        Args:
            order: The samples, by number.
            size: Samples per batch; the last batch of every shape may be smaller.
        """
        full: list[list[int]] = []
        begun: dict[tuple, list[int]] = {}
        for index in order:
            # Sequences of different lengths cannot be stacked.
            batch = begun.setdefault(self._shapes[index], [])
            batch.append(index)
            if len(batch) == size:
                full.append(begun.pop(self._shapes[index]))
        return full + list(begun.values())

    def read(self, batch: Sequence[int]) -> list[np.ndarray]:
        """Returns the inputs of a batch, flat."""
        return [
            np.concatenate([next(self._spool.batches((index, position))) for index in batch])
            for position in range(len(self._shapes[0]))
        ]
