"""What every other folder needs: checks of arguments, the backend, disjoint sets, tables."""

from keras_branch_prune.common.arguments import (
    check_share,
    number_or_nan,
    number_up_to,
    require_integer,
    require_number,
)
from keras_branch_prune.common.backend import require_tensorflow
from keras_branch_prune.common.disjoint_sets import DisjointSets
from keras_branch_prune.common.tables import format_table

__all__ = [
    "DisjointSets",
    "check_share",
    "format_table",
    "number_or_nan",
    "number_up_to",
    "require_integer",
    "require_number",
    "require_tensorflow",
]
