"""Arithmetic of linear layers as data: multiplying channel maps into their kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_branch_prune.graph import Deferred, Unit, as_array


@dataclasses.dataclass(frozen=True)
class ChannelMatrices:
    """The weights of a `ChannelMap`, arrays or not yet: `(positions, kernel)` per block, a bias.

    The kernel of a block is a matrix `(channels before, channels after)`; of a diagonal one it is
    the diagonal, `(channels,)`.
    """

    blocks: tuple[tuple[int, Any], ...]
    bias: Any = None

    @classmethod
    def of(cls, unit: Unit) -> ChannelMatrices:
        """Takes the weights of a `ChannelMap` unit."""
        weights = list(unit.weights)
        positions = [block[0] for block in unit.config["blocks"]]
        bias = weights.pop() if unit.config["use_bias"] else None
        return cls(tuple(zip(positions, weights, strict=True)), bias)

    @classmethod
    def diagonal(cls, scale: np.ndarray, bias: np.ndarray | None = None) -> ChannelMatrices:
        """Returns the map that multiplies every channel and adds to it; all `(channels,)`."""
        return cls(((1, scale),), bias)

    def repeated(self, times: int) -> ChannelMatrices:
        """Returns the diagonal map of channels that each stand several times in a row."""
        ((_, scale),) = self.blocks
        bias = None if self.bias is None else np.repeat(self.bias, times)
        return ChannelMatrices.diagonal(np.repeat(scale, times), bias)

    @property
    def shape(self) -> tuple[int, int]:
        """Channels before and after the map, those of all positions."""
        inputs = sum(positions * matrix.shape[0] for positions, matrix in self.blocks)
        outputs = sum(positions * matrix.shape[-1] for positions, matrix in self.blocks)
        return inputs, outputs

    def transposed(self) -> ChannelMatrices:
        """Returns the map the other way, by the same matrices and without a bias."""
        return ChannelMatrices(tuple((p, _transposed(matrix)) for p, matrix in self.blocks))

    def dense(self) -> np.ndarray:
        """Returns the whole map as one matrix `(inputs, outputs)`, float64; block-diagonal."""
        whole, row, column = np.zeros(self.shape), 0, 0
        for positions, matrix in self.blocks:
            assert positions == 1
            height, width = matrix.shape[0], matrix.shape[-1]
            block = as_array(matrix)
            block = np.diag(block) if block.ndim == 1 else block
            whole[row : row + height, column : column + width] = block
            row, column = row + height, column + width
        return whole

    def part(self, inputs: slice, outputs: slice) -> np.ndarray:
        """Returns the map of a run of channels to another, float64; a diagonal stays one."""
        (_, matrix), *others = self.blocks
        if not others and len(matrix.shape) == 1 and inputs == outputs:
            return as_array(matrix)[inputs]
        return self.dense()[inputs, outputs]


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
        parts.append(_mapped(part, axis, [(1, expand.part(inputs, outputs).T)]))
    return np.concatenate(parts, axis=-1)


def expand_bias(
    bias: np.ndarray,
    kernel: Any,
    axes: tuple[int, int],
    expand: ChannelMatrices | None,
    conv_groups: int = 1,
) -> np.ndarray:
    """Returns the bias of `layer ∘ expand`, float64: the kernel's sum over the bias of `expand`.

    Args:
        bias: Float64 bias of the layer, `(output channels,)`.
        kernel: Its kernel, an array or not yet; the layer adds no zeros to its input.
        axes: Axes of the input and the output channels in the kernel.
        expand: The map k → C before the layer, or `None`.
        conv_groups: Groups of a convolution, as for `expand_kernel`.
    """
    if expand is None or expand.bias is None:
        return bias
    shift = ChannelMatrices.diagonal(as_array(expand.bias))
    products = expand_kernel(as_array(kernel).astype(np.float64), axes[0], shift, conv_groups)
    products = np.moveaxis(products, axes[1], -1)
    return bias + products.sum(axis=tuple(range(products.ndim - 1)))


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
        blocks: Positions of every block, and its matrix `(channels before, channels after)` or
            diagonal `(channels,)`.
    """
    rows = np.moveaxis(array, axis, -1)
    *others, _ = rows.shape
    parts, start = [], 0
    for positions, matrix in blocks:
        end, matrix = start + positions * matrix.shape[0], as_array(matrix).astype(np.float64)
        part = rows[..., start:end]
        if matrix.ndim == 1:
            parts.append(part * np.tile(matrix, positions))
        else:
            # As two axes: of (…, 1, channels) NumPy would make one product per row.
            product = part.reshape(-1, len(matrix)) @ matrix
            parts.append(product.reshape(*others, positions * matrix.shape[1]))
        start = end
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    return np.moveaxis(whole, -1, axis)
