"""Puts a narrow branch into a model, fits it to the original, and multiplies it out again."""

from keras_branch_prune.branching.brancher import branch
from keras_branch_prune.branching.merger import merge
from keras_branch_prune.branching.reconstruction import Fitting, reconstruct
from keras_branch_prune.branching.refinement import Refinement, refine
from keras_branch_prune.branching.selected_model import select, select_channels

__all__ = [
    "Fitting",
    "Refinement",
    "branch",
    "merge",
    "reconstruct",
    "refine",
    "select",
    "select_channels",
]
