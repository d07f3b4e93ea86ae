"""The Keras layers that a branched model adds."""

from keras_branch_prune.layers.alpha import (
    Alpha,
    alpha_layer,
    alpha_of,
    find_alpha,
    flatten_layers,
    get_alpha,
    set_alpha,
    value_of,
)
from keras_branch_prune.layers.blend import AlphaBlend, check_stochastic, share_of
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
    "alpha_of",
    "check_stochastic",
    "find_alpha",
    "flatten_layers",
    "get_alpha",
    "is_inside_narrow",
    "is_map_weight",
    "is_narrow",
    "narrow_name",
    "original_name",
    "set_alpha",
    "share_of",
    "value_of",
]
