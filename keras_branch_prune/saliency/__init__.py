"""Says which channels of a group are worth most."""

from keras_branch_prune.saliency.criteria import SALIENCIES, GroupData, register_saliency
from keras_branch_prune.saliency.ranking import Ranking, rank

__all__ = [
    "SALIENCIES",
    "GroupData",
    "Ranking",
    "rank",
    "register_saliency",
]
