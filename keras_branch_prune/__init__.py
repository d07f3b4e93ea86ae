"""Structured pruning for Keras 3: narrow branches, blended in by callbacks, merged exactly.

Most need `explain`, `plan`, `branch`, an α callback such as `AlphaStepDecay`, `merge`, an export
and `benchmark`; or `prune`, which is all of it in one call. Whoever extends the package looks into
`rules` (what layers do to channels), `saliency` (which channels stay) and `zoo` (models to prune).
"""

from keras_branch_prune import rules, saliency, zoo
from keras_branch_prune.alpha import (
    AlphaBacktracking,
    AlphaCallback,
    AlphaCosineDecay,
    AlphaExponentialDecay,
    AlphaLinearDecay,
    AlphaMultiplicativeDecay,
    AlphaReduceOnPlateau,
    AlphaSchedule,
    AlphaStepDecay,
    BacktrackingSearch,
    CosineDecay,
    ExponentialDecay,
    LinearDecay,
    MultiplicativeDecay,
    ScheduleType,
    StepDecay,
    StopAtAlphaZero,
    make_alpha_callback,
)
from keras_branch_prune.analysis import (
    ChannelGroup,
    GroupPlan,
    PruningPlan,
    count_macs,
    count_parameters,
)
from keras_branch_prune.benchmarking import BenchmarkError, BenchmarkResult, benchmark
from keras_branch_prune.branching import (
    Fitting,
    Refinement,
    branch,
    merge,
    reconstruct,
    refine,
    select,
)
from keras_branch_prune.exporting import (
    ExportError,
    export_litert,
    export_onnx,
    export_openvino,
    export_saved_model,
    fold_batch_norm,
)
from keras_branch_prune.files import ModelFileError, atomic_write, load_model, save_model
from keras_branch_prune.layers import Alpha, AlphaBlend, ChannelMap, get_alpha, set_alpha
from keras_branch_prune.planning import Latency, plan
from keras_branch_prune.pruning import (
    PruningResult,
    Recipe,
    RunFolder,
    prune,
    standard_prune,
    train_from_scratch,
)
from keras_branch_prune.reporting import (
    Explanation,
    GroupSensitivity,
    Sensitivity,
    explain,
    plot_sensitivity,
    plot_speedup,
    plot_training,
    sensitivity,
)
from keras_branch_prune.rules import (
    Barrier,
    Channelwise,
    Concatenation,
    Elementwise,
    LinearMap,
    register_rule,
)
from keras_branch_prune.saliency import GroupData, register_saliency
from keras_branch_prune.training import (
    Distiller,
    EpochBackup,
    IncreaseLROnPlateau,
    ReestimateBatchNorm,
    RewindLearningRate,
    ScaledRates,
    StopOnNonFinite,
    reestimate_batch_norm,
)

__version__ = "0.2.0"

__all__ = [  # noqa: RUF022 - the core first, then by topic
    # The core: look, plan, blend, merge, export, measure.
    "explain",
    "plan",
    "branch",
    "merge",
    "select",
    "prune",
    "Recipe",
    "AlphaStepDecay",
    "StopAtAlphaZero",
    "export_saved_model",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "benchmark",
    "load_model",
    "save_model",
    # How α falls.
    "AlphaBacktracking",
    "AlphaCallback",
    "AlphaCosineDecay",
    "AlphaExponentialDecay",
    "AlphaLinearDecay",
    "AlphaMultiplicativeDecay",
    "AlphaReduceOnPlateau",
    "AlphaSchedule",
    "BacktrackingSearch",
    "CosineDecay",
    "ExponentialDecay",
    "LinearDecay",
    "MultiplicativeDecay",
    "ScheduleType",
    "StepDecay",
    "get_alpha",
    "make_alpha_callback",
    "set_alpha",
    # What goes, and how much.
    "ChannelGroup",
    "GroupPlan",
    "Latency",
    "PruningPlan",
    "count_macs",
    "count_parameters",
    # The branch, fitted.
    "Alpha",
    "AlphaBlend",
    "ChannelMap",
    "Fitting",
    "Refinement",
    "reconstruct",
    "refine",
    # Better training.
    "Distiller",
    "EpochBackup",
    "IncreaseLROnPlateau",
    "ReestimateBatchNorm",
    "RewindLearningRate",
    "ScaledRates",
    "StopOnNonFinite",
    "reestimate_batch_norm",
    # Whole runs, and what to compare them with.
    "PruningResult",
    "RunFolder",
    "standard_prune",
    "train_from_scratch",
    # Exports and files.
    "ExportError",
    "ModelFileError",
    "atomic_write",
    "fold_batch_norm",
    # Measurements, reports and pictures.
    "BenchmarkError",
    "BenchmarkResult",
    "Explanation",
    "GroupSensitivity",
    "Sensitivity",
    "plot_sensitivity",
    "plot_speedup",
    "plot_training",
    "sensitivity",
    # For those who extend it.
    "Barrier",
    "Channelwise",
    "Concatenation",
    "Elementwise",
    "GroupData",
    "LinearMap",
    "register_rule",
    "register_saliency",
    "rules",
    "saliency",
    "zoo",
]
