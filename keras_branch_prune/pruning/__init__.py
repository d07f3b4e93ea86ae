"""From a trained model to a compact one in a single resumable call, and the controls for it."""

from keras_branch_prune.pruning.controls import standard_prune, train_from_scratch
from keras_branch_prune.pruning.pruner import prune
from keras_branch_prune.pruning.recipe import Recipe
from keras_branch_prune.pruning.result import PruningResult
from keras_branch_prune.pruning.run_folder import RunFolder

__all__ = [
    "PruningResult",
    "Recipe",
    "RunFolder",
    "prune",
    "standard_prune",
    "train_from_scratch",
]
