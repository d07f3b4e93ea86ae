"""The three layers that a branched model adds: `Alpha`, `AlphaBlend` and `ChannelMap`."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

_PACKAGE = "keras_branch_prune"
_MAP_WEIGHT = "keras_branch_prune_map"

PRUNED_SUFFIX = "__pruned"
"""How the names of layers in the pruned branch end."""


@keras.saving.register_keras_serializable(package=_PACKAGE)
class Alpha(keras.layers.Layer):
    """Owns α and all state of its decay, and emits α as a scalar to every blend of the model.

    The state lives in non-trainable variables, so that whatever saves the model's weights
    (`model.save`, `EpochBackup`, `keras.callbacks.BackupAndRestore`) saves it too:

    * `alpha`: the current share of the original branch, float32 in [0, 1];
    * `step`: number of decay steps taken, int32;
    * `wait`: epochs or batches since the last step or the last improvement, int32;
    * `best`: best value of the monitored metric at this α, float32 (NaN: none seen yet).

    Args:
        frozen: Names of the layers that were set untrainable for the time of the blending.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, frozen: Sequence[str] = (), **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(autocast=False, **kwargs)
        self.frozen = tuple(frozen)

    def build(self, input_shape: Any) -> None:
        """Creates the state variables; `input_shape` is not used."""
        self.alpha = self._state("alpha", "ones", "float32")
        self.step = self._state("step", "zeros", "int32")
        self.wait = self._state("wait", "zeros", "int32")
        self.best = self._state("best", keras.initializers.Constant(float("nan")), "float32")

    def _state(self, name: str, initializer: Any, dtype: str) -> Any:
        return self.add_weight(
            shape=(),
            initializer=initializer,
            dtype=dtype,
            trainable=False,
            autocast=False,
            name=name,
            aggregation="only_first_replica",
        )

    def call(self, inputs: Any) -> Any:
        """Returns α as a float32 scalar; `inputs` only connects the layer to the graph."""
        return ops.convert_to_tensor(self.alpha)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Returns the spec of a float32 scalar."""
        return keras.KerasTensor((), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the config of the layer."""
        return {**super().get_config(), "frozen": list(self.frozen)}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class AlphaBlend(keras.layers.Layer):
    """Computes `α·original + (1 − α)·pruned`.

    Takes `[alpha, original, pruned]`: a scalar and two tensors of one shape. `1 − α` is computed in
    float32 whatever the compute dtype is. A tensor whose share is 0 does not count, whatever is in
    it, so that an original branch that has diverged cannot reach the output at α = 0 (`0 · inf`
    would be NaN); the gradients inside the branch are not guarded.

    Args:
        stochastic: Whether training takes, for each batch, either the original tensor (with
            probability α) or the pruned one, instead of the mean that inference takes. Every
            blend draws for itself. At α = 1 and α = 0 nothing is left to chance.
        seed: Seed of the draws, an integer; None takes a random one.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `stochastic` is not a bool or `seed` not an integer.
    """

    def __init__(self, stochastic: bool = False, seed: int | None = None, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        self.stochastic, self.seed = check_stochastic(stochastic, seed)
        self._generator = keras.random.SeedGenerator(seed) if stochastic else None

    def compute_mask(self, inputs: Sequence[Any], previous_mask: Any = None) -> Any:
        """Returns the Keras mask of the original branch's tensor."""
        return None if previous_mask is None else previous_mask[1]

    def call(self, inputs: Sequence[Any], training: bool = False) -> Any:
        """Returns the blend of `inputs = [alpha, original, pruned]`, in their common dtype."""
        alpha, original, pruned = inputs
        if self._generator is not None and training:
            draw = keras.random.uniform((), dtype="float32", seed=self._generator)
            alpha = ops.cast(draw < alpha, "float32")
        return ops.add(share_of(original, alpha), share_of(pruned, 1.0 - alpha))

    def compute_output_spec(
        self, inputs: Sequence[Any], training: bool = False
    ) -> keras.KerasTensor:
        """Returns the spec of the original branch's tensor, in the common dtype."""
        _, original, pruned = inputs
        dtype = keras.backend.result_type(original.dtype, pruned.dtype)
        return keras.KerasTensor(original.shape, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the config of the layer."""
        return {**super().get_config(), "stochastic": self.stochastic, "seed": self.seed}


def check_stochastic(stochastic: Any, seed: Any) -> tuple[bool, int | None]:
    """Returns the arguments of a stochastic blend, or raises `ValueError`."""
    if not isinstance(stochastic, bool):
        raise ValueError(f"`stochastic` must be a bool. Received: stochastic={stochastic!r}")
    integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if seed is not None and not (integer and seed >= 0):
        raise ValueError(
            f"`seed` must be an integer of at least 0 or None. Received: seed={seed!r}"
        )
    return stochastic, None if seed is None else int(seed)


def share_of(tensor: Any, share: Any) -> Any:
    """Returns `share·tensor`, which is 0 at `share` = 0 even where the tensor is not finite."""
    share = ops.cast(share, tensor.dtype)
    if keras.config.backend() == "tensorflow":
        # One pass over the tensor, forward and backward; a select would take another one each.
        return tf.math.multiply_no_nan(tensor, share)
    return ops.where(share > 0, share * tensor, ops.zeros_like(tensor))


@keras.saving.register_keras_serializable(package=_PACKAGE)
class ChannelMap(keras.layers.Layer):
    """A linear map along the channel axis: reduce (C → k) or expand (k → C).

    A channel axis may consist of several blocks side by side, and a block may repeat for a number
    of positions, as it does after `Flatten`: `(height, width, C)` flattened is one block of
    `height·width` positions with C channels each. Every block has one kernel, shared by its
    positions.

    Args:
        blocks: One `(positions, inputs, outputs)` per block: how often the block repeats, and its
            channels per position before and after the map.
        axis: The channel axis, counted with the batch dimension.
        use_bias: Whether a bias is added, of a number for every channel at every position.
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
