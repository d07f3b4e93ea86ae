"""The layer that blends the original and the pruned branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_branch_prune.common import require_bool, require_integer
from keras_branch_prune.layers.names import PACKAGE


@keras.saving.register_keras_serializable(package=PACKAGE)
class AlphaBlend(keras.layers.Layer):
    """Computes `α·original + (1 − α)·pruned`.

    Takes `[alpha, original, pruned]`: a scalar and two tensors of one shape. `1 − α` is computed in
    float32 whatever the compute dtype is. A tensor whose share is 0 adds exactly 0, even where it
    is NaN or infinite (`0 · inf` would be NaN): at α = 0 an original branch that has diverged does
    not reach the output. The gradients inside the branch are not guarded.

    Args:
        stochastic: Whether training takes for each batch either the original tensor (with
            probability α) or the pruned one, instead of their weighted mean, which inference
            takes. Every blend draws for itself. At α = 1 and α = 0 the draw is certain.
        seed: Seed of the draws, an integer; None takes a random one.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `stochastic` is not a bool or `seed` not an integer.
    """

    def __init__(self, stochastic: bool = False, seed: int | None = None, **kwargs: Any):
        # Else Keras would cast α to the compute dtype before `call` sees it.
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        self.stochastic, self.seed = check_stochastic(stochastic, seed)
        self._generator = keras.random.SeedGenerator(self.seed) if stochastic else None

    def compute_mask(self, inputs: Sequence[Any], previous_mask: Any = None) -> Any:
        """Returns the Keras mask of the original branch's tensor."""
        return None if previous_mask is None else previous_mask[1]

    def call(self, inputs: Sequence[Any], training: bool = False) -> Any:
        """Returns the blend of `inputs = [alpha, original, pruned]`, in their common dtype."""
        alpha, original, pruned = inputs
        if self._generator is not None and training:
            # From [0, 1): always below α = 1, never below α = 0.
            draw = keras.random.uniform((), dtype="float32", seed=self._generator)
            alpha = ops.cast(draw < alpha, "float32")
        return ops.add(scale_by_share(original, alpha), scale_by_share(pruned, 1.0 - alpha))

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
    require_bool("stochastic", stochastic)
    return stochastic, None if seed is None else require_integer("seed", seed, at_least=0)


def scale_by_share(tensor: Any, share: Any) -> Any:
    """Returns `share·tensor`, which is 0 at `share` = 0 even where the tensor is not finite.

    Args:
        tensor: A floating-point tensor.
        share: A scalar ≥ 0.
    """
    share = ops.cast(share, tensor.dtype)
    if keras.config.backend() == "tensorflow":
        # One pass over the tensor, forward and backward; a select would take another one each.
        return tf.math.multiply_no_nan(tensor, share)
    return ops.where(share > 0, share * tensor, ops.zeros_like(tensor))
