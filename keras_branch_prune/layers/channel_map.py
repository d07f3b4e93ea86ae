"""A linear map along the channels: reduce or expand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_branch_prune.layers.names import PACKAGE

_MAP_WEIGHT = "keras_branch_prune_map"


@keras.saving.register_keras_serializable(package=PACKAGE)
class ChannelMap(keras.layers.Layer):
    """A linear map along the channel axis: reduce (C → k) or expand (k → C).

    A channel axis may consist of several blocks side by side, as after a concatenation, and a block
    may repeat for a number of positions, as after `Flatten`. Every block has one kernel, which its
    positions share. Where 7 × 7 × 64 features are flattened and 10 others stand beside them, the
    blocks `[(49, 64, 32), (1, 10, 5)]` halve the channels of both: 3,146 numbers become 1,573.

    Args:
        blocks: One `(positions, inputs, outputs)` per block: how often the block repeats, and its
            channels per position before and after the map.
        axis: The channel axis, counted with the batch dimension.
        use_bias: Whether a bias is added: one number per output, not shared by positions.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[int]],
        axis: int = -1,
        use_bias: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.blocks = tuple((int(p), int(i), int(o)) for p, i, o in blocks)
        self.axis = axis
        self.use_bias = use_bias

    def build(self, input_shape: Any) -> None:
        """Creates a kernel of shape `(inputs, outputs)` per block, and the bias of all outputs."""
        self.kernels = [
            self.add_weight(shape=(i, o), initializer="glorot_uniform", name=f"kernel_{n}")
            for n, (_, i, o) in enumerate(self.blocks)
        ]
        self.bias = None
        if self.use_bias:
            outputs = sum(positions * outputs for positions, _, outputs in self.blocks)
            self.bias = self.add_weight(shape=(outputs,), initializer="zeros", name="bias")
        for weight in self.weights:
            setattr(weight, _MAP_WEIGHT, True)

    def call(self, inputs: Any) -> Any:
        """Maps a tensor with `sum(positions·inputs)` channels to `sum(positions·outputs)`."""
        last = self.axis in (-1, len(inputs.shape) - 1)
        x = inputs if last else ops.moveaxis(inputs, self.axis, -1)
        x = self._map_blocks(x)
        if self.bias is not None:
            x = x + self.bias
        return x if last else ops.moveaxis(x, -1, self.axis)

    def _map_blocks(self, x: Any) -> Any:
        # The usual map is a single product, without slices and a concatenation around it.
        if len(self.blocks) == 1 and self.blocks[0][0] == 1:
            return ops.matmul(x, self.kernels[0])
        ends = [0]
        for positions, channels, _ in self.blocks:
            ends.append(ends[-1] + positions * channels)
        parts = [
            self._map_positions(x[..., start:end], kernel, block)
            for start, end, kernel, block in zip(
                ends, ends[1:], self.kernels, self.blocks, strict=False
            )
        ]
        return ops.concatenate(parts, axis=-1)

    @staticmethod
    def _map_positions(x: Any, kernel: Any, block: tuple[int, int, int]) -> Any:
        positions, channels, outputs = block
        # Not `x.shape`, in which open dimensions are None.
        leading = ops.shape(x)[:-1]
        x = ops.matmul(ops.reshape(x, (*leading, positions, channels)), kernel)
        return ops.reshape(x, (*leading, positions * outputs))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Returns `input_shape` with the channel axis mapped."""
        shape = list(input_shape)
        shape[self.axis] = sum(positions * outputs for positions, _, outputs in self.blocks)
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the config of the layer."""
        blocks = [list(block) for block in self.blocks]
        config = {"blocks": blocks, "axis": self.axis, "use_bias": self.use_bias}
        return {**super().get_config(), **config}


def is_map_weight(variable: Any) -> bool:
    """Returns whether a variable is a weight of a `ChannelMap`."""
    # Names do not tell: the layer "reduce" of a nested model "block" is "block__reduce", too.
    return getattr(variable, _MAP_WEIGHT, False)
