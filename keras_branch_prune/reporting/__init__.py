"""What people look at before and after: explanations, sensitivities, pictures."""

from keras_branch_prune.reporting.explanation import Explanation, explain
from keras_branch_prune.reporting.sensitivities import GroupSensitivity, Sensitivity, sensitivity
from keras_branch_prune.reporting.sensitivity_plot import plot_sensitivity
from keras_branch_prune.reporting.speedup_plot import plot_speedup
from keras_branch_prune.reporting.training_plot import plot_training

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
