"""What every other folder needs: checks of arguments, the backend, disjoint sets, tables."""

from keras_branch_prune.common.arguments import (
    require,
    require_bool,
    require_choice,
    require_integer,
    require_number,
    require_number_up_to,
    require_positive,
    require_share,
)
from keras_branch_prune.common.backend import require_tensorflow
from keras_branch_prune.common.disjoint_sets import DisjointSets
from keras_branch_prune.common.keras_internals import (
    application_layer,
    input_structure,
    mask_of,
    nodes_in_order,
    object_sharing_scope,
    operation_of,
    output_index,
    output_structure,
    record_variables,
    safe_mode_scope,
    scoped_objects,
    sequential_graph,
)
from keras_branch_prune.common.tables import format_table

__all__ = [
    "DisjointSets",
    "application_layer",
    "format_table",
    "input_structure",
    "mask_of",
    "nodes_in_order",
    "object_sharing_scope",
    "operation_of",
    "output_index",
    "output_structure",
    "record_variables",
    "require",
    "require_bool",
    "require_choice",
    "require_integer",
    "require_number",
    "require_number_up_to",
    "require_positive",
    "require_share",
    "require_tensorflow",
    "safe_mode_scope",
    "scoped_objects",
    "sequential_graph",
]
