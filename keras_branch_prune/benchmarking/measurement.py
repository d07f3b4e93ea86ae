"""Measures models fairly: in fresh processes, in interleaved rounds."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_branch_prune.analysis import InputShape
from keras_branch_prune.benchmarking.result import BenchmarkResult
from keras_branch_prune.benchmarking.rounds import (
    CallTimes,
    Workload,
    find_peaks,
    measure,
    model_workloads,
    peak_workloads,
    start_workers,
    warm_up,
)
from keras_branch_prune.benchmarking.timing import VariantResult, make_timing
from keras_branch_prune.benchmarking.variants import Variant, export_models
from keras_branch_prune.common import require, require_integer, require_number
from keras_branch_prune.exporting import FORMATS

_DEVICES = ("cpu", "gpu")


def benchmark(
    models: Mapping[str, keras.Model | str | os.PathLike[str]],
    batch_sizes: Sequence[int] = (1, 64),
    *,
    backends: Sequence[str] = ("saved_model",),
    threads: int | Sequence[int | None] | None = None,
    rounds: int = 7,
    seconds: float = 0.5,
    devices: Sequence[str] | None = None,
    input_shape: InputShape | None = None,
    peak: bool = True,
    timeout: float = 300.0,
) -> BenchmarkResult:
    """Measures variants of a model as users meet them: run by Keras, or exported.

    Every variant runs with every backend and number of threads in a fresh process of its own, on
    random inputs that are already in memory. The processes take turns, one at a time, in another
    order every round, so that a slow moment of the machine hits all alike. On a GPU they cannot
    have the memory that this process has reserved: call
    `tf.config.experimental.set_memory_growth` before building models.

    Measure trained models. TensorFlow drops a bias that is all zero, as in a model that was just
    built, and then computes the convolution's ReLU in a second kernel, which takes longer.

    The backends are `"keras"` (`predict_on_batch` of the saved model, with stock layers and those
    of this package), `"saved_model"` (TensorFlow), `"litert"`, `"onnxruntime"` and `"openvino"`
    (in float32, compiled for each batch size, optimised for latency). The last three run on the CPU
    only, and are left out on a GPU.

    Example:
        >>> print(benchmark({"original": model, "compact": compact}))  # doctest: +SKIP

    Args:
        models: Name → model, path of a `.keras` file, or path of an exported model, which only its
            own backend can run: the folder of a SavedModel or of an OpenVINO model, a `.tflite` or
            an `.onnx` file. The others are compared with the first. Models are exported without
            verification, and as SavedModels with `freeze` only if all are small enough for it.
        batch_sizes: Images per call.
        backends: What runs the models.
        threads: Number of threads on the CPU, or several numbers, each of which is measured; `None`
            leaves it to the runtime (LiteRT takes one). With TensorFlow it is the number of
            intra-op threads, beside one inter-op thread.
        rounds: Number of turns that every process takes; a 95 % confidence interval of a speed-up
            needs at least 6.
        seconds: Least duration of one turn at one batch size, s.
        devices: Some of `"cpu"` and `"gpu"`; `None` takes the CPU, and a GPU if TensorFlow sees
            one.
        input_shape: Shape of one sample without the batch dimension, or a dict of them by input
            name; needed only if the models leave it open.
        peak: Whether to measure in the same rounds how fast TensorFlow multiplies large matrices
            (float32, on a GPU as it rounds them by default), for `BenchmarkResult.utilisation`.
        timeout: How long to wait for one answer of a process, s.

    Returns:
        Parameters, MACs, file sizes (MiB), latency per image (ms, p50 and p95), RAM and VRAM (MiB),
        speed-ups, and shares of the peak.

    Raises:
        TypeError: If a value in `models` is neither a Keras model nor a path.
        ValueError: If an argument is out of its range, a model cannot be exported, or a path in
            `models` is for none of the backends.
        FileNotFoundError: If a path is none of these models.
        ImportError: If a backend needs a package that is missing.
        ExportError: If a model cannot be converted for a backend.
        BenchmarkError: If a process ends or does not answer in time; its last error output is
            shown.
    """
    _check_arguments(models, batch_sizes, backends, rounds, seconds, devices)
    counts = _thread_counts(threads)
    devices = _visible_devices() if devices is None else tuple(dict.fromkeys(devices))
    batch_sizes = sorted(set(batch_sizes))
    with tempfile.TemporaryDirectory() as scratch:
        backends = tuple(dict.fromkeys(backends))
        variants = export_models(models, backends, Path(scratch), input_shape)
        workloads = model_workloads(variants, devices, counts)
        workloads += peak_workloads(devices, counts) if peak else []
        with start_workers(workloads, variants, input_shape, timeout) as workers:
            # Waits until all have loaded their models, which would disturb what others measure.
            facts = {workload: worker.ask("facts") for workload, worker in workers.items()}
            memory = warm_up(workers, batch_sizes)
            calls_ms = measure(workers, batch_sizes, rounds, seconds)
        results = [_make_variant_result(*item, calls_ms, memory) for item in variants.items()]
    peaks = find_peaks({workload: fact["flop"] for workload, fact in facts.items()}, calls_ms)
    environment = _describe_environment(facts.values(), counts, rounds)
    return BenchmarkResult(tuple(results), environment, peaks)


def _check_arguments(
    models: Any,
    batch_sizes: Sequence[int],
    backends: Sequence[str],
    rounds: int,
    seconds: float,
    devices: Sequence[str] | None,
) -> None:
    named = isinstance(models, Mapping) and bool(models)
    require(named, "models", models, "a dict of name → model, not empty")
    several = isinstance(batch_sizes, Sequence) and bool(batch_sizes)
    require(several, "batch_sizes", batch_sizes, "a sequence of integers, not empty")
    known = bool(backends) and set(backends) <= set(FORMATS)
    require(known, "backends", backends, f"a sequence of some of {tuple(FORMATS)}")
    require_integer("rounds", rounds, 1)
    for index, size in enumerate(batch_sizes):
        require_integer(f"batch_sizes[{index}]", size, 1)
    require_number("seconds", seconds, lambda x: x > 0, "a positive number")
    known = devices is None or (bool(devices) and set(devices) <= set(_DEVICES))
    require(known, "devices", devices, f"some of {_DEVICES}")


def _thread_counts(threads: Any) -> tuple[int | None, ...]:
    """Returns all numbers of threads to measure, without repetitions."""
    several = isinstance(threads, Sequence) and not isinstance(threads, str)
    counts = tuple(threads) if several else (threads,)
    if not counts:
        raise ValueError(f"`threads` must not be empty. Received: {threads!r}")
    for index, count in enumerate(counts):
        if count is not None:
            require_integer(f"threads[{index}]" if several else "threads", count, 1)
    return tuple(dict.fromkeys(counts))


def _visible_devices() -> tuple[str, ...]:
    return _DEVICES if tf.config.list_physical_devices("GPU") else _DEVICES[:1]


def _make_variant_result(
    name: str, variant: Variant, calls_ms: CallTimes, memory: Mapping[tuple[Workload, int], Any]
) -> VariantResult:
    timings = tuple(
        make_timing(x.device, size, calls_ms[x, size], used, x.backend, x.threads)
        for (x, size), used in memory.items()
        if x.variant == name
    )
    sizes = {backend: variant.size_mib(backend) for backend in variant.paths}
    costs = variant.costs
    if costs is None:
        return VariantResult(name, None, None, (), sizes, timings)
    return VariantResult(name, costs.parameters, costs.macs, costs.uncounted, sizes, timings)


def _describe_environment(
    facts: Collection[Mapping[str, Any]], counts: Sequence[int | None], rounds: int
) -> dict[str, Any]:
    return {
        **{title: version for fact in facts for title, version in fact["versions"].items()},
        "CPU": cpu_name(),
        "GPU": next((fact["gpu"] for fact in facts if fact["gpu"]), None),
        "threads": " and ".join("by default" if x is None else str(x) for x in counts),
        "rounds": rounds,
    }


def cpu_name() -> str:
    """Returns the name of the CPU and the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.machine()
    # Linux only, and not on every processor.
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"{name} ({cores} logical cores)"
