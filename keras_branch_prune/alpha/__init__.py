"""How α falls, and when."""

from keras_branch_prune.alpha.backtracking import AlphaBacktracking
from keras_branch_prune.alpha.backtracking_search import BacktrackingSearch
from keras_branch_prune.alpha.callbacks import AlphaCallback, StopAtAlphaZero
from keras_branch_prune.alpha.decays import (
    AlphaCosineDecay,
    AlphaExponentialDecay,
    AlphaLinearDecay,
    AlphaMultiplicativeDecay,
    AlphaReduceOnPlateau,
    AlphaStepDecay,
    make_alpha_callback,
)
from keras_branch_prune.alpha.schedules import (
    AlphaSchedule,
    CosineDecay,
    ExponentialDecay,
    LinearDecay,
    MultiplicativeDecay,
    ScheduleType,
    StepDecay,
)

__all__ = [
    "AlphaBacktracking",
    "AlphaCallback",
    "AlphaCosineDecay",
    "AlphaExponentialDecay",
    "AlphaLinearDecay",
    "AlphaMultiplicativeDecay",
    "AlphaReduceOnPlateau",
    "AlphaSchedule",
    "AlphaStepDecay",
    "BacktrackingSearch",
    "CosineDecay",
    "ExponentialDecay",
    "LinearDecay",
    "MultiplicativeDecay",
    "ScheduleType",
    "StepDecay",
    "StopAtAlphaZero",
    "make_alpha_callback",
]
