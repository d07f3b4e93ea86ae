"""The layers that multi-head attention is split into: projections to heads, and the attention.

`MultiHeadAttention` hides four linear maps and the attention of every head in one layer. Between
its parts the channels are flat, `(batch, length, heads·size)`, head after head, so that heads and
value channels are channels like any others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

# As in `layers/names.py`, which stands above this folder.
_PACKAGE = "keras_branch_prune"


@keras.saving.register_keras_serializable(package=_PACKAGE)
class HeadProjection(keras.layers.Dense):
    """A `Dense` layer whose units are the channels of all heads, head after head.

    Args:
        units: Channels of all heads together, 64 for 4 heads of 16.
        num_heads: Number of heads.
        heads_of: Name of the projection whose heads these are, if it is another one: values name
            the projection of queries. `None` for queries and keys.
        **kwargs: Arguments of `keras.layers.Dense`.
    """

    def __init__(self, units: int, num_heads: int, heads_of: str | None = None, **kwargs: Any):
        super().__init__(units, **kwargs)
        self.num_heads = num_heads
        self.heads_of = heads_of

    def get_config(self) -> dict[str, Any]:
        """Returns the config of the layer."""
        return {**super().get_config(), "num_heads": self.num_heads, "heads_of": self.heads_of}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class HeadAttention(keras.layers.MultiHeadAttention):
    """`MultiHeadAttention` without its projections: takes and returns flat channels of all heads.

    Everything else is inherited and therefore the same: scale, masks, softmax, dropout. The value
    is the first input, because a layer is narrowed by the channels of its first input, and those of
    the value hold both the heads and the value channels in them.

    Args:
        **kwargs: Arguments of `keras.layers.MultiHeadAttention`.
    """

    def build(
        self, value_shape: Sequence[Any], query_shape: Sequence[Any], key_shape: Sequence[Any]
    ) -> None:
        """Puts reshapes in the place of the projections; there are no weights."""
        # The inherited `call` calls these four.
        self._query_dense = self._key_dense = self._value_dense = self._split_heads
        self._output_dense = self._join_heads
        # The rank of what it attends to, `(batch, length, heads, size)`.
        self._build_attention(len(query_shape) + 1)

    def _split_heads(self, x: Any) -> Any:
        return ops.reshape(x, (*ops.shape(x)[:-1], self.num_heads, x.shape[-1] // self.num_heads))

    def _join_heads(self, x: Any) -> Any:
        return ops.reshape(x, (*ops.shape(x)[:-2], self.num_heads * self.value_dim))

    def call(
        self,
        value: Any,
        query: Any,
        key: Any,
        value_mask: Any = None,
        query_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Any:
        """Returns the heads' outputs side by side, and the scores if they are asked for."""
        return super().call(
            query,
            value,
            key,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
        )

    def compute_output_shape(
        self, value_shape: Sequence[Any], query_shape: Sequence[Any], key_shape: Sequence[Any]
    ) -> tuple[int | None, ...]:
        """Returns the shape of the query with the value channels of all heads."""
        return (*query_shape[:-1], self.num_heads * self.value_dim)

    def compute_output_spec(
        self,
        value: Any,
        query: Any,
        key: Any,
        return_attention_scores: bool = False,
        **options: Any,
    ) -> Any:
        """Returns the spec of the output, and of the scores if they are asked for."""
        shape = self.compute_output_shape(value.shape, query.shape, key.shape)
        output = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return output
        scores = (query.shape[0], self.num_heads, query.shape[1], key.shape[1])
        return output, keras.KerasTensor(scores, dtype=self.compute_dtype)
