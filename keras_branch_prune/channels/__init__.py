"""Channels as data: how groups make up an axis, how they are tracked, how maps meet kernels."""

from keras_branch_prune.channels.cuts import side_by_side
from keras_branch_prune.channels.kernels import (
    ChannelMatrices,
    expand_bias,
    expand_kernel,
    reduce_bias,
    reduce_kernel,
)
from keras_branch_prune.channels.layouts import Block, Kept, Layout, Layouts, Segment
from keras_branch_prune.channels.tracker import ChannelRun, ChannelTracker

__all__ = [
    "Block",
    "ChannelMatrices",
    "ChannelRun",
    "ChannelTracker",
    "Kept",
    "Layout",
    "Layouts",
    "Segment",
    "expand_bias",
    "expand_kernel",
    "reduce_bias",
    "reduce_kernel",
    "side_by_side",
]
