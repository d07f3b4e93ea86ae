"""The Keras layers that a branched model adds."""

from keras_branch_prune.layers.alpha import (
    Alpha,
    alpha_layer,
    find_alpha,
    flatten_layers,
    get_alpha,
    read_alpha,
    read_scalar,
    set_alpha,
)
from keras_branch_prune.layers.blend import AlphaBlend, check_stochastic, scale_by_share
from keras_branch_prune.layers.channel_map import ChannelMap, is_map_weight
from keras_branch_prune.layers.names import (
    PACKAGE,
    is_inside_narrow,
    is_narrow,
    narrow_name,
    original_name,
)

__all__ = [
    "PACKAGE",
    "Alpha",
    "AlphaBlend",
    "ChannelMap",
    "alpha_layer",
    "check_stochastic",
    "find_alpha",
    "flatten_layers",
    "get_alpha",
    "is_inside_narrow",
    "is_map_weight",
    "is_narrow",
    "narrow_name",
    "original_name",
    "read_alpha",
    "read_scalar",
    "scale_by_share",
    "set_alpha",
]
