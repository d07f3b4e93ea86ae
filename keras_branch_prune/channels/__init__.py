"""Channels as data: how groups make up an axis, how they are tracked, how maps meet kernels."""

from keras_branch_prune.channels.cuts import side_by_side
from keras_branch_prune.channels.kernels import ChannelMatrices, multiply_weights
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
    "multiply_weights",
    "side_by_side",
]
