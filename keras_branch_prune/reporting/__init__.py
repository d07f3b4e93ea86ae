"""What people look at before and after: explanations, sensitivities, pictures."""

from keras_branch_prune.reporting.explanation import Explanation, explain
from keras_branch_prune.reporting.plots import plot_sensitivity, plot_speedup, plot_training
from keras_branch_prune.reporting.sensitivities import GroupSensitivity, Sensitivity, sensitivity

__all__ = [
    "Explanation",
    "GroupSensitivity",
    "Sensitivity",
    "explain",
    "plot_sensitivity",
    "plot_speedup",
    "plot_training",
    "sensitivity",
]
