"""A model as a flat graph that is held as data: read from Keras, rewritten, and built again."""

from keras_branch_prune.graph.activations import has_fused_activation, set_activation_lookup
from keras_branch_prune.graph.attention import (
    MAY_BE_MASKED,
    attention_inputs,
    fuse_attention,
    reason_to_keep_whole,
)
from keras_branch_prune.graph.attention_layers import HeadAttention, HeadProjection
from keras_branch_prune.graph.building import LayerRunner, ModelBuilder, build_model
from keras_branch_prune.graph.canonical import canonical, fuse
from keras_branch_prune.graph.equivalence import (
    check_equivalent,
    compute_in_float64,
    draw_inputs,
    relative_error,
)
from keras_branch_prune.graph.graph import Call, Deferred, Graph, Unit, Value, as_array, is_finite
from keras_branch_prune.graph.rewriting import pack, replace_units, substitute, unique_name

__all__ = [
    "MAY_BE_MASKED",
    "Call",
    "Deferred",
    "Graph",
    "HeadAttention",
    "HeadProjection",
    "LayerRunner",
    "ModelBuilder",
    "Unit",
    "Value",
    "as_array",
    "attention_inputs",
    "build_model",
    "canonical",
    "check_equivalent",
    "compute_in_float64",
    "draw_inputs",
    "fuse",
    "fuse_attention",
    "has_fused_activation",
    "is_finite",
    "pack",
    "reason_to_keep_whole",
    "relative_error",
    "replace_units",
    "set_activation_lookup",
    "substitute",
    "unique_name",
]
