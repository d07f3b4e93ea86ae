"""What of a model can be narrowed, what that would cost, and the plan as a value."""

from keras_branch_prune.analysis.costs import (
    Costs,
    InputShape,
    count_macs,
    count_parameters,
    graph_costs,
    graph_parameters,
    model_costs,
)
from keras_branch_prune.analysis.groups import (
    Analysis,
    ChannelGroup,
    analyse,
    analyse_prunable,
)
from keras_branch_prune.analysis.narrowing import (
    Narrowing,
    narrowed_graph,
    smallest,
    spread,
    without_numbers,
)
from keras_branch_prune.analysis.pruning_plan import (
    GroupPlan,
    PruningPlan,
    analyse_for_plan,
    fingerprint,
)
from keras_branch_prune.analysis.selection import Selectors, in_scope, selection_record

__all__ = [
    "Analysis",
    "ChannelGroup",
    "Costs",
    "GroupPlan",
    "InputShape",
    "Narrowing",
    "PruningPlan",
    "Selectors",
    "analyse",
    "analyse_for_plan",
    "analyse_prunable",
    "count_macs",
    "count_parameters",
    "fingerprint",
    "graph_costs",
    "graph_parameters",
    "in_scope",
    "model_costs",
    "narrowed_graph",
    "selection_record",
    "smallest",
    "spread",
    "without_numbers",
]
