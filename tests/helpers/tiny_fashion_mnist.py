"""A tiny Fashion-MNIST, laid out as Debian's package lays out the real one."""

import gzip
import struct

import fashion_mnist_files
import numpy as np

COUNTS = {"train": 80, "test": 20}


def write_tiny_fashion_mnist(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, (images, labels) in fashion_mnist_files.PARTS.items():
        count = COUNTS[split]
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        _write_idx(folder / images, struct.pack(">4i", 2051, count, 28, 28), pixels)
        classes = (np.arange(count) % 10).astype(np.uint8)
        _write_idx(folder / labels, struct.pack(">2i", 2049, count), classes)
    return folder


def _write_idx(path, header, array):
    path.write_bytes(gzip.compress(header + array.tobytes()))
