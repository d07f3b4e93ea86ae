"""How many channels stay, from any target."""

from keras_branch_prune.planning.planner import plan
from keras_branch_prune.planning.targets import Latency
from keras_branch_prune.planning.widths import WidthLimits

__all__ = [
    "Latency",
    "WidthLimits",
    "plan",
]
