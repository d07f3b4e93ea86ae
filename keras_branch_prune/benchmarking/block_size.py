"""How many channels the kernels of this machine work on at once.

Kernels compute channels in blocks, such as a vector register's 16 numbers, and fill up the last
block: a width of 81 takes as long as one of 96.
"""

from __future__ import annotations

import functools
import statistics

import keras
import tensorflow as tf
from keras import layers

from keras_branch_prune.benchmarking.layer_latency import Measure, measure_in_turns

_BLOCKS = {64: (128, 192), 32: (96, 128), 16: (96, 128), 8: (96, 128), 4: (96, 128)}
"""Block sizes to try, largest first, each with two widths that are multiples of it."""
_LEAST_SHARE_SAVED = 0.45
"""Narrowing within a block must save less time than this share of the saved MACs. If the blocks had
half the size it would save 0.55, and less where kernels take longer for half a block."""
_SIZE, _DEPTH = 16, 4
_CPU_BATCH, _GPU_BATCH = 4, 256


@functools.cache
def block_size(dtype: str = "float32") -> int:
    """Returns the block size of this machine's convolution kernels, measured once per process.

    Args:
        dtype: The compute dtype.

    Returns:
        Number of channels, a power of two; 1 if narrowing by any number of channels saves time.
    """
    return measure_block_size(measure_in_turns, dtype)


def measure_block_size(measure: Measure, dtype: str = "float32") -> int:
    """Returns the largest block size within which narrowing saves next to nothing.

    A stack of 3 × 3 convolutions is measured at widths `n` that are multiples of a block size `b`,
    and at `n − b + 1`: for b = 32, at 128 and 97 channels. Both fill 4 blocks of 32, so that they
    take equally long if that is the block size; with blocks of 16, they fill 8 and 7.

    Args:
        measure: Maps models by name and the batch size to ms by name.
        dtype: The compute dtype.
    """
    pairs = {block: [(n - block + 1, n) for n in widths] for block, widths in _BLOCKS.items()}
    needed = sorted({width for together in pairs.values() for pair in together for width in pair})
    batch = _GPU_BATCH if tf.config.list_physical_devices("GPU") else _CPU_BATCH
    times = measure({str(width): _convolutions(width, dtype) for width in needed}, batch)
    ms = {width: times[str(width)] for width in needed}
    for block, together in pairs.items():
        if statistics.mean(_share_saved(ms, *pair) for pair in together) < _LEAST_SHARE_SAVED:
            return block
    return 1


def _share_saved(ms: dict[int, float], narrow: int, wide: int) -> float:
    """Returns the share of the time that narrowing saves, over the share of MACs that it saves."""
    # The MACs of a convolution grow with the square of the width.
    return (1 - ms[narrow] / ms[wide]) / (1 - (narrow / wide) ** 2)


def _convolutions(width: int, dtype: str) -> keras.Model:
    x = inputs = keras.Input((_SIZE, _SIZE, width), dtype=dtype)
    for _ in range(_DEPTH):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, dtype=dtype)(x)
    return keras.Model(inputs, x)
