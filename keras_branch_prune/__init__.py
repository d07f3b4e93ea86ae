"""Structured pruning for Keras 3: narrow branches, blended in by callbacks, merged exactly."""

from keras_branch_prune import zoo
from keras_branch_prune.alpha.backtracking import AlphaBacktracking
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
from keras_branch_prune.analysis.costs import count_macs, count_parameters
from keras_branch_prune.analysis.groups import ChannelGroup
from keras_branch_prune.analysis.pruning_plan import GroupPlan, PruningPlan
from keras_branch_prune.benchmarking.measurement import benchmark
from keras_branch_prune.benchmarking.result import BenchmarkResult
from keras_branch_prune.branching.brancher import branch
from keras_branch_prune.branching.merger import merge
from keras_branch_prune.branching.reconstruction import Fitting, reconstruct
from keras_branch_prune.branching.refinement import Refinement, refine
from keras_branch_prune.exporting.batch_norm_folding import fold_batch_norm
from keras_branch_prune.exporting.litert import export_litert
from keras_branch_prune.exporting.onnx import export_onnx
from keras_branch_prune.exporting.openvino import export_openvino
from keras_branch_prune.exporting.saved_model import export_saved_model
from keras_branch_prune.exporting.verification import ExportError
from keras_branch_prune.files.archive import ModelFileError
from keras_branch_prune.files.atomic import atomic_write
from keras_branch_prune.files.models import load_model, save_model
from keras_branch_prune.layers.alpha import Alpha, get_alpha, set_alpha
from keras_branch_prune.layers.blend import AlphaBlend
from keras_branch_prune.layers.channel_map import ChannelMap
from keras_branch_prune.planning.planner import plan
from keras_branch_prune.planning.targets import Latency
from keras_branch_prune.pruning.controls import standard_prune, train_from_scratch
from keras_branch_prune.pruning.pruner import prune
from keras_branch_prune.pruning.recipe import Recipe
from keras_branch_prune.pruning.result import PruningResult
from keras_branch_prune.reporting.explanation import Explanation, explain
from keras_branch_prune.reporting.plots import plot_sensitivity, plot_speedup, plot_training
from keras_branch_prune.reporting.sensitivities import GroupSensitivity, Sensitivity, sensitivity
from keras_branch_prune.rules.base import Barrier
from keras_branch_prune.rules.channelwise import Channelwise
from keras_branch_prune.rules.joining import Concatenation, Elementwise
from keras_branch_prune.rules.linear import LinearMap
from keras_branch_prune.rules.table import register_rule
from keras_branch_prune.runtimes.process import BenchmarkError
from keras_branch_prune.saliency.criteria import GroupData, register_saliency
from keras_branch_prune.training.backup import EpochBackup
from keras_branch_prune.training.batch_statistics import ReestimateBatchNorm, reestimate_batch_norm
from keras_branch_prune.training.distillation import Distiller
from keras_branch_prune.training.divergence import StopOnNonFinite
from keras_branch_prune.training.learning_rates import IncreaseLROnPlateau, RewindLearningRate
from keras_branch_prune.training.scaled_rates import ScaledRates

__all__ = [
    "Alpha",
    "AlphaBacktracking",
    "AlphaBlend",
    "AlphaCallback",
    "AlphaCosineDecay",
    "AlphaExponentialDecay",
    "AlphaLinearDecay",
    "AlphaMultiplicativeDecay",
    "AlphaReduceOnPlateau",
    "AlphaSchedule",
    "AlphaStepDecay",
    "Barrier",
    "BenchmarkError",
    "BenchmarkResult",
    "ChannelGroup",
    "ChannelMap",
    "Channelwise",
    "Concatenation",
    "CosineDecay",
    "Distiller",
    "Elementwise",
    "EpochBackup",
    "Explanation",
    "ExponentialDecay",
    "ExportError",
    "Fitting",
    "GroupData",
    "GroupPlan",
    "GroupSensitivity",
    "IncreaseLROnPlateau",
    "Latency",
    "LinearDecay",
    "LinearMap",
    "ModelFileError",
    "MultiplicativeDecay",
    "PruningPlan",
    "PruningResult",
    "Recipe",
    "ReestimateBatchNorm",
    "Refinement",
    "RewindLearningRate",
    "ScaledRates",
    "ScheduleType",
    "Sensitivity",
    "StepDecay",
    "StopAtAlphaZero",
    "StopOnNonFinite",
    "atomic_write",
    "benchmark",
    "branch",
    "count_macs",
    "count_parameters",
    "explain",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "export_saved_model",
    "fold_batch_norm",
    "get_alpha",
    "load_model",
    "make_alpha_callback",
    "merge",
    "plan",
    "plot_sensitivity",
    "plot_speedup",
    "plot_training",
    "prune",
    "reconstruct",
    "reestimate_batch_norm",
    "refine",
    "register_rule",
    "register_saliency",
    "save_model",
    "sensitivity",
    "set_alpha",
    "standard_prune",
    "train_from_scratch",
    "zoo",
]
