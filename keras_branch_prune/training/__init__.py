"""Makes any `fit` safe, resumable and better: callbacks, an optimizer, training with a teacher."""

from keras_branch_prune.training.backup import EpochBackup
from keras_branch_prune.training.batch_statistics import ReestimateBatchNorm, reestimate_batch_norm
from keras_branch_prune.training.distillation import Distiller
from keras_branch_prune.training.divergence import StopOnNonFinite, has_diverged
from keras_branch_prune.training.learning_rates import IncreaseLROnPlateau, RewindLearningRate
from keras_branch_prune.training.monitors import improves, report_missing, resolve_mode
from keras_branch_prune.training.scaled_rates import ScaledRates
from keras_branch_prune.training.snapshot import Snapshot, take_snapshot

__all__ = [
    "Distiller",
    "EpochBackup",
    "IncreaseLROnPlateau",
    "ReestimateBatchNorm",
    "RewindLearningRate",
    "ScaledRates",
    "Snapshot",
    "StopOnNonFinite",
    "has_diverged",
    "improves",
    "reestimate_batch_norm",
    "report_missing",
    "resolve_mode",
    "take_snapshot",
]
