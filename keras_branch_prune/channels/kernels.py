"""Arithmetic of linear layers as data: multiplying channel maps into their kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_branch_prune.graph import Deferred, Unit, as_array


@dataclasses.dataclass(frozen=True)
class ChannelMatrices:
    """The weights of a `ChannelMap`, arrays or not yet: `(positions, kernel)` per block, a bias."""

    blocks: tuple[tuple[int, Any], ...]
    bias: Any = None

    @classmethod
    def of(cls, unit: Unit) -> ChannelMatrices:
        """Takes the weights of a `ChannelMap` unit."""
        weights = list(unit.weights)
        positions = [block[0] for block in unit.config["blocks"]]
        bias = weights.pop() if unit.config["use_bias"] else None
        return cls(tuple(zip(positions, weights, strict=True)), bias)

    @property
    def shape(self) -> tuple[int, int]:
        """Channels before and after the map, those of all positions."""
        inputs = sum(positions * matrix.shape[0] for positions, matrix in self.blocks)
        outputs = sum(positions * matrix.shape[1] for positions, matrix in self.blocks)
        return inputs, outputs

    def transposed(self) -> ChannelMatrices:
        """Returns the map the other way, by the same matrices and without a bias."""
        return ChannelMatrices(tuple((p, _transposed(matrix)) for p, matrix in self.blocks))

    def dense(self) -> np.ndarray:
        """Returns the whole map as one matrix `(inputs, outputs)`, float64; block-diagonal."""
        whole, row, column = np.zeros(self.shape), 0, 0
        for positions, matrix in self.blocks:
            assert positions == 1
            height, width = matrix.shape
            whole[row : row + height, column : column + width] = as_array(matrix)
            row, column = row + height, column + width
        return whole


def _transposed(matrix: Any) -> Deferred:
    return Deferred(matrix.shape[::-1], lambda: as_array(matrix).T)


def expand_kernel(
    kernel: np.ndarray, axis: int, expand: ChannelMatrices | None, conv_groups: int = 1
) -> np.ndarray:
    """Returns `kernel ∘ expand`: the kernel of a layer that reads the narrow channels.

    Args:
        kernel: Float64 kernel; the last axis is that of the output channels if `conv_groups` > 1.
        axis: Axis of the input channels.
        expand: The map k → C before the layer, or `None`.
        conv_groups: Groups of a convolution, of which each reads its share of the input channels.
    """
    if expand is None:
        return kernel
    if conv_groups == 1:
        return _mapped(kernel, axis, [(p, as_array(matrix).T) for p, matrix in expand.blocks])
    narrow, channels = (size // conv_groups for size in expand.shape)
    parts = []
    for group, part in enumerate(np.split(kernel, conv_groups, axis=-1)):
        inputs = slice(group * narrow, (group + 1) * narrow)
        outputs = slice(group * channels, (group + 1) * channels)
        parts.append(_mapped(part, axis, [(1, expand.dense()[inputs, outputs].T)]))
    return np.concatenate(parts, axis=-1)


def reduce_kernel(kernel: np.ndarray, axis: int, reduce: ChannelMatrices | None) -> np.ndarray:
    """Returns `reduce ∘ kernel`, float64; `axis` is that of the output channels."""
    if reduce is None:
        return kernel
    return _mapped(kernel, axis, reduce.blocks)


def reduce_bias(bias: np.ndarray, reduce: ChannelMatrices | None) -> np.ndarray:
    """Returns the bias behind the map, float64."""
    if reduce is None:
        return bias
    return _mapped(bias, 0, reduce.blocks) + (0.0 if reduce.bias is None else as_array(reduce.bias))


def _mapped(array: np.ndarray, axis: int, blocks: Sequence[tuple[int, Any]]) -> np.ndarray:
    """Returns the array with one axis mapped, block by block and position by position.

    Args:
        array: Float64 array.
        axis: The axis.
        blocks: Positions of every block, and its matrix `(channels before, channels after)`.
    """
    rows = np.moveaxis(array, axis, -1)
    *others, _ = rows.shape
    parts, start = [], 0
    for positions, matrix in blocks:
        channels, mapped = matrix.shape
        end = start + positions * channels
        # As two axes: of (…, 1, channels) NumPy would make one matrix-vector product per row.
        part = rows[..., start:end].reshape(-1, channels) @ as_array(matrix).astype(np.float64)
        parts.append(part.reshape(*others, positions * mapped))
        start = end
    return np.moveaxis(np.concatenate(parts, axis=-1), -1, axis)
