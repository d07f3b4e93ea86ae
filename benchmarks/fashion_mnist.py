"""Fashion-MNIST from the four files of Debian's package `dataset-fashion-mnist`."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

FOLDER = "/usr/share/datasets/fashion-mnist"
_TRAINING = 55_000

Split = tuple[np.ndarray, np.ndarray]
"""Images `(count, 28, 28, 1)`, float32 in [0, 1], and labels `(count,)`, int64."""


def load_training_data(folder: str = FOLDER) -> tuple[Split, Split]:
    """Returns 55,000 images for training and 5,000 for validation; the test set is not touched.

    The split is `numpy.random.default_rng(42).permutation(60000)`.
    """
    images, labels = _load(folder, "train")
    order = np.random.default_rng(42).permutation(len(images))
    train, validation = order[:_TRAINING], order[_TRAINING:]
    return (images[train], labels[train]), (images[validation], labels[validation])


def load_test_data(folder: str = FOLDER) -> Split:
    """Returns the 10,000 images of the test set."""
    return _load(folder, "t10k")


def _load(folder: str, name: str) -> Split:
    images = _read_idx(Path(folder) / f"{name}-images-idx3-ubyte.gz")
    labels = _read_idx(Path(folder) / f"{name}-labels-idx1-ubyte.gz")
    return images[..., None].astype(np.float32) / 255, labels.astype(np.int64)


def _read_idx(path: Path) -> np.ndarray:
    """Returns the array in a packed IDX file."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
