"""Batches of arrays that may be larger than memory."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Hashable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from keras_branch_prune.common import require_number_up_to

_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class _File:
    """An array in a raw file, which holds neither shape nor dtype."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        return np.fromfile(self.path, self.dtype).reshape(self.shape)


class Spool:
    """Lists of batches by key: in memory up to a limit, beyond it in temporary files.

    Use it as a context manager: leaving it removes the files.

    Args:
        memory_mib: How much is held in memory, MiB.

    Raises:
        ValueError: If `memory_mib` is not a number ≥ 0.
    """

    def __init__(self, memory_mib: float = 256):
        self._limit = require_number_up_to("memory_mib", memory_mib, at_most=math.inf) * _MIB
        self._held = 0
        self._batches: dict[Hashable, list[np.ndarray | _File]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="calibration-")
        self._files = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def append(self, key: Hashable, batch: np.ndarray) -> None:
        """Adds a batch to the list of `key`."""
        entries = self._batches.setdefault(key, [])
        if self._held + batch.nbytes <= self._limit:
            self._held += batch.nbytes
            entries.append(batch)
            return
        self._files += 1
        entry = _File(Path(self._folder.name) / str(self._files), batch.shape, batch.dtype)
        # Not `np.save`, which stores bfloat16 as bytes without a meaning.
        batch.tofile(entry.path)
        entries.append(entry)

    def batches(self, key: Hashable) -> Iterator[np.ndarray]:
        """Yields the batches of `key` in the order in which they were added."""
        for entry in self._batches[key]:
            yield entry.read() if isinstance(entry, _File) else entry

    def drop(self, key: Hashable) -> None:
        """Forgets the batches of `key`."""
        for entry in self._batches.pop(key, ()):
            if isinstance(entry, _File):
                entry.path.unlink()
            else:
                self._held -= entry.nbytes
