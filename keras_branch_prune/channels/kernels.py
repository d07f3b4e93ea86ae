"""Multiplies channel maps into the kernels of linear layers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_branch_prune.graph import Deferred, Unit, as_array


@dataclasses.dataclass(frozen=True)
class ChannelMatrices:
    """The weights of a `ChannelMap`: one `(positions, matrix)` per block, and perhaps a bias.

    A matrix is `(channels before, channels after)`, or only its diagonal, `(channels,)`; the bias
    has one entry per channel after the map. Both are arrays, variables or `Deferred`.
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

    def repeat(self, times: int) -> ChannelMatrices:
        """Returns the diagonal map with every entry repeated in place, as a multiplier does."""
        ((_, scale),) = self.blocks
        bias = None if self.bias is None else np.repeat(self.bias, times)
        return ChannelMatrices.diagonal(np.repeat(scale, times), bias)

    @property
    def shape(self) -> tuple[int, int]:
        """Channels before and after the map, those of all positions."""
        inputs = sum(positions * matrix.shape[0] for positions, matrix in self.blocks)
        outputs = sum(positions * matrix.shape[-1] for positions, matrix in self.blocks)
        return inputs, outputs

    def transpose(self) -> ChannelMatrices:
        """Returns the map with every matrix transposed, without a bias."""
        return ChannelMatrices(tuple((p, _transpose(matrix)) for p, matrix in self.blocks))

    def dense(self) -> np.ndarray:
        """Returns the map as one block-diagonal matrix `(inputs, outputs)`, float64."""
        whole, row, column = np.zeros(self.shape), 0, 0
        for positions, matrix in self.blocks:
            # Only grouped convolutions ask, and the channels that they read are not flattened.
            assert positions == 1
            height, width = matrix.shape[0], matrix.shape[-1]
            block = as_array(matrix)
            block = np.diag(block) if block.ndim == 1 else block
            whole[row : row + height, column : column + width] = block
            row, column = row + height, column + width
        return whole

    def part(self, inputs: slice, outputs: slice) -> np.ndarray:
        """Returns the map from a run of channels to another, float64; a diagonal stays one."""
        # As a matrix, a diagonal map of C channels would have C² entries.
        (_, matrix), *others = self.blocks
        if not others and len(matrix.shape) == 1 and inputs == outputs:
            return as_array(matrix)[inputs]
        return self.dense()[inputs, outputs]


def _transpose(matrix: Any) -> Deferred:
    return Deferred(matrix.shape[::-1], lambda: as_array(matrix).T)


def multiply_weights(
    weights: Sequence[Any],
    axes: tuple[int, int],
    expand: ChannelMatrices | None,
    reduce: ChannelMatrices | None,
    conv_groups: int = 1,
) -> tuple[Deferred, ...]:
    """Returns the weights of `reduce ∘ layer ∘ expand`, multiplied when they are asked for.

    All products are in float64 and rounded once to the dtype of the weights.

    Args:
        weights: Kernel and perhaps bias of the layer, `(output channels, 1, 1, …)`.
        axes: Axes of the input and the output channels in the kernel.
        expand: The map k → C before the layer, or `None`.
        reduce: The map C → k behind it, or `None`.
        conv_groups: Groups of a convolution, of which each reads its share of the input channels.
    """
    kernel, *biases = weights
    shape = list(kernel.shape)
    if expand is not None:
        shape[axes[0]] = expand.shape[0] // conv_groups
    if reduce is not None:
        shape[axes[1]] = reduce.shape[1]

    def multiply_kernel() -> np.ndarray:
        array = as_array(kernel)
        product = _expand_kernel(array.astype(np.float64), axes[0], expand, conv_groups)
        return _reduce_kernel(product, axes[1], reduce).astype(array.dtype)

    def multiply_bias(bias: Any, bias_shape: tuple[int, ...]) -> np.ndarray:
        array = as_array(bias)
        flat = _expand_bias(array.astype(np.float64).ravel(), kernel, axes, expand, conv_groups)
        return _reduce_bias(flat, reduce).reshape(bias_shape).astype(array.dtype)

    products = [Deferred(tuple(shape), multiply_kernel)]
    for bias in biases:
        bias_shape = (shape[axes[1]], *bias.shape[1:])
        products.append(Deferred(bias_shape, functools.partial(multiply_bias, bias, bias_shape)))
    return tuple(products)


def _expand_kernel(
    kernel: np.ndarray, axis: int, expand: ChannelMatrices | None, conv_groups: int
) -> np.ndarray:
    """Returns `kernel ∘ expand`, float64: the kernel of a layer that reads the narrow channels."""
    if expand is None:
        return kernel
    if conv_groups == 1:
        return _map_axis(kernel, axis, expand.transpose().blocks)
    narrow, channels = (size // conv_groups for size in expand.shape)
    parts = []
    # Keras' grouped kernels are (…, inputs per group, outputs of all groups, one after another).
    for group, part in enumerate(np.split(kernel, conv_groups, axis=-1)):
        inputs = slice(group * narrow, (group + 1) * narrow)
        outputs = slice(group * channels, (group + 1) * channels)
        parts.append(_map_axis(part, axis, [(1, expand.part(inputs, outputs).T)]))
    return np.concatenate(parts, axis=-1)


def _expand_bias(
    bias: np.ndarray,
    kernel: Any,
    axes: tuple[int, int],
    expand: ChannelMatrices | None,
    conv_groups: int,
) -> np.ndarray:
    """Returns the bias of `layer ∘ expand`, float64: what the layer makes of the bias of `expand`.

    This is right only where the layer adds no zeros to its input.
    """
    if expand is None or expand.bias is None:
        return bias
    shift = ChannelMatrices.diagonal(as_array(expand.bias))
    products = _expand_kernel(as_array(kernel).astype(np.float64), axes[0], shift, conv_groups)
    products = np.moveaxis(products, axes[1], -1)
    return bias + products.sum(axis=tuple(range(products.ndim - 1)))


def _reduce_kernel(kernel: np.ndarray, axis: int, reduce: ChannelMatrices | None) -> np.ndarray:
    """Returns `reduce ∘ kernel`, float64; `axis` is that of the output channels."""
    return kernel if reduce is None else _map_axis(kernel, axis, reduce.blocks)


def _reduce_bias(bias: np.ndarray, reduce: ChannelMatrices | None) -> np.ndarray:
    """Returns the bias of `reduce ∘ layer`, float64."""
    if reduce is None:
        return bias
    product = _map_axis(bias, 0, reduce.blocks)
    return product + (0.0 if reduce.bias is None else as_array(reduce.bias))


def _map_axis(array: np.ndarray, axis: int, blocks: Sequence[tuple[int, Any]]) -> np.ndarray:
    """Maps one axis of a float64 array, block by block and position by position.

    The blocks are those of `ChannelMatrices`; all positions of a block share its matrix.
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
            # With two axes: of (…, 1, channels) NumPy would compute one product per row.
            product = part.reshape(-1, len(matrix)) @ matrix
            parts.append(product.reshape(*others, positions * matrix.shape[1]))
        start = end
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    return np.moveaxis(whole, -1, axis)
