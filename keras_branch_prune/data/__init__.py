"""Samples in every form that `fit` takes, also when they are larger than memory."""

from keras_branch_prune.data.calibration import Batch, read_batches
from keras_branch_prune.data.datasets import check_data, read_first_samples, require_samples
from keras_branch_prune.data.samples import Samples
from keras_branch_prune.data.shuffled import ShuffledArrays
from keras_branch_prune.data.spool import Spool

__all__ = [
    "Batch",
    "Samples",
    "ShuffledArrays",
    "Spool",
    "check_data",
    "read_batches",
    "read_first_samples",
    "require_samples",
]
