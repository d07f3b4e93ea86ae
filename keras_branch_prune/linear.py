"""Arithmetic of linear layers as data: multiplying channel maps into their kernels."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_branch_prune.graph import Unit


@dataclasses.dataclass(frozen=True)
class ChannelMatrices:
    """The weights of a `ChannelMap`: `(positions, kernel)` per block, and perhaps a bias."""

    blocks: tuple[tuple[int, np.ndarray], ...]
    bias: np.ndarray | None = None

    @classmethod
    def of(cls, unit: Unit) -> ChannelMatrices:
        """Reads the weights of a `ChannelMap` unit."""
        arrays = unit.arrays()
        positions = [block[0] for block in unit.config["blocks"]]
        bias = arrays.pop() if unit.config["use_bias"] else None
        return cls(tuple(zip(positions, arrays, strict=True)), bias)


@dataclasses.dataclass(frozen=True)
class LinearSpec:
    """Where a linear layer keeps its channels; its weights are a kernel and perhaps a bias.

    Args:
        width_key: Config key of the number of output channels.
        input_axis: Axis of the input channels in the kernel.
        output_axis: Axis of the output channels in the kernel.
    """

    width_key: str
    input_axis: int
    output_axis: int


def has_plain_weights(unit: Unit) -> bool:
    """Whether the weights are exactly a kernel and, if configured, a bias (not so with LoRA)."""
    return len(unit.weights) == 1 + bool(unit.config["use_bias"])


def multiply(
    unit: Unit,
    spec: LinearSpec,
    expand: ChannelMatrices | None,
    reduce: ChannelMatrices | None,
) -> Unit:
    """Returns `reduce ∘ unit ∘ expand` as one layer; computed in float64, cast once.

    Args:
        unit: A linear layer `C_in → C_out`.
        spec: Where it keeps its channels.
        expand: A map `k_in → C_in` without bias before the layer, or `None`.
        reduce: A map `C_out → k_out` after the layer, or `None`.
    """
    kernel, *rest = unit.arrays()
    product = kernel.astype(np.float64)
    bias = rest[0].astype(np.float64) if rest else None
    if expand is not None:
        product = _expand_inputs(product, spec.input_axis, expand)
    if reduce is not None:
        ((_, matrix),) = reduce.blocks
        product = np.moveaxis(product, spec.output_axis, -1) @ matrix.astype(np.float64)
        product = np.moveaxis(product, -1, spec.output_axis)
        if bias is not None and reduce.bias is not None:
            bias = bias @ matrix.astype(np.float64) + reduce.bias.astype(np.float64)
    weights = [product.astype(kernel.dtype)]
    if bias is not None:
        weights.append(bias.astype(kernel.dtype))
    width = product.shape[spec.output_axis]
    return unit.replace(config={spec.width_key: width}, weights=tuple(weights))


def _expand_inputs(kernel: np.ndarray, axis: int, expand: ChannelMatrices) -> np.ndarray:
    """Multiplies the block matrices into the input axis of the kernel."""
    rows = np.moveaxis(kernel, axis, 0)
    parts, start = [], 0
    for positions, matrix in expand.blocks:
        narrow, channels = matrix.shape
        end = start + positions * channels
        part = rows[start:end].reshape(positions, channels, -1)
        part = np.matmul(matrix.astype(np.float64), part)
        parts.append(part.reshape(positions * narrow, *rows.shape[1:]))
        start = end
    return np.moveaxis(np.concatenate(parts), 0, axis)
