"""Measures models fairly, side by side."""

from keras_branch_prune.benchmarking.block_size import block_size
from keras_branch_prune.benchmarking.layer_latency import (
    latency_cost,
    layer_latencies,
    measure_in_turns,
)
from keras_branch_prune.benchmarking.measurement import benchmark, cpu_name
from keras_branch_prune.benchmarking.result import BenchmarkResult
from keras_branch_prune.benchmarking.rounds import BenchmarkError
from keras_branch_prune.benchmarking.timing import Timing

__all__ = [
    "BenchmarkError",
    "BenchmarkResult",
    "Timing",
    "benchmark",
    "block_size",
    "cpu_name",
    "latency_cost",
    "layer_latencies",
    "measure_in_turns",
]
