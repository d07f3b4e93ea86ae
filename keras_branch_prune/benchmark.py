"""Measures exported models fairly: in fresh processes, in interleaved rounds."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_branch_prune.benchmark_result import (
    BenchmarkResult,
    Timing,
    VariantResult,
    make_timing,
)
from keras_branch_prune.costs import Costs, InputShape, model_costs
from keras_branch_prune.export import export_saved_model, fits_frozen
from keras_branch_prune.files import load_model
from keras_branch_prune.worker import BenchmarkError, Worker, start_worker

__all__ = ["BenchmarkError", "BenchmarkResult", "benchmark"]

_DEVICES = ("cpu", "gpu")
_WARM_UP_CALLS = 3
_CALLS_PER_ROUND = 3


_Key = tuple[str, str]
"""Name of a variant and device."""


def benchmark(
    models: Mapping[str, keras.Model | str | os.PathLike[str]],
    batch_sizes: Sequence[int] = (1, 64),
    *,
    rounds: int = 5,
    seconds: float = 0.5,
    threads: int | None = None,
    devices: Sequence[str] | None = None,
    input_shape: InputShape | None = None,
    timeout: float = 300.0,
) -> BenchmarkResult:
    """Measures variants of a model as users meet them: exported as SavedModels.

    Every variant runs in a fresh process of its own, on random inputs that are already in memory.
    The processes take turns, one at a time, in every round in another order, so that a slow moment
    of the machine hits all variants alike. On a GPU they cannot have the memory that this process
    has reserved: call `tf.config.experimental.set_memory_growth` before building models.

    Example:
        >>> print(benchmark({"original": model, "pruned": "vgg16-compact"}))  # doctest: +SKIP

    Args:
        models: Name → model, folder of a SavedModel, or path of a `.keras` file. The first is what
            the others are compared with. Models are exported with `export_saved_model`, without
            its verification, and with `freeze` only if all of them are small enough for it.
        batch_sizes: Images per call.
        rounds: Number of turns that every variant takes.
        seconds: Least time of one turn at one batch size, s.
        threads: Number of intra-op threads on the CPU, with one inter-op thread; `None` leaves
            both to TensorFlow.
        devices: Of `"cpu"` and `"gpu"`; `None` takes the CPU, and a GPU if TensorFlow sees one.
        input_shape: Shape of one sample without the batch dimension, or a dict of them by input
            name; needed only if the models leave it open.
        timeout: How long to wait for one answer of a process, s.

    Returns:
        Parameters, MACs, file size (MiB), latency per image (ms, p50 and p95), RAM and VRAM (MiB)
        and speed-ups.

    Raises:
        TypeError: If a value in `models` is neither a Keras model nor a path.
        ValueError: If an argument is out of its range, or a model cannot be exported.
        FileNotFoundError: If a path is neither a SavedModel nor a `.keras` file.
        BenchmarkError: If a process ends or does not answer in time; its last error output is
            shown.
    """
    _check(models, batch_sizes, rounds, seconds, threads, devices)
    devices = _visible_devices() if devices is None else tuple(dict.fromkeys(devices))
    batch_sizes = sorted(set(batch_sizes))
    options = {"backend": "saved_model", "threads": threads, "input_shape": input_shape}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        variants = _prepared(models, Path(scratch), input_shape)
        workers = {
            (name, device): stack.enter_context(
                start_worker(
                    f"'{name}' on the {device.upper()}",
                    {**options, "path": str(path), "device": device},
                    timeout,
                )
            )
            for device in devices
            for name, (path, _) in variants.items()
        }
        facts = [worker.ready() for worker in workers.values()]
        memory = _warm_up(workers, batch_sizes)
        calls_ms = _measure(workers, batch_sizes, rounds, seconds)
        sizes = {name: _size_mib(path) for name, (path, _) in variants.items()}
    results = []
    for name, (_, costs) in variants.items():
        keys = [(name, device, size) for device in devices for size in batch_sizes]
        timings = tuple(make_timing(*key[1:], calls_ms[key], memory[key]) for key in keys)
        results.append(_variant_result(name, costs, sizes[name], timings))
    return BenchmarkResult(tuple(results), _environment(facts, threads, rounds))


def _check(
    models: Any,
    batch_sizes: Sequence[int],
    rounds: int,
    seconds: float,
    threads: int | None,
    devices: Sequence[str] | None,
) -> None:
    if not isinstance(models, Mapping) or not models:
        raise ValueError(
            f"`models` must be a dict of name → model, not empty. Received: {models!r}"
        )
    if not isinstance(batch_sizes, Sequence) or not batch_sizes:
        raise ValueError(
            f"`batch_sizes` must be a sequence of integers, not empty. Received: {batch_sizes!r}"
        )
    integers = {"rounds": rounds, "threads": 1 if threads is None else threads}
    integers.update((f"batch_sizes[{i}]", size) for i, size in enumerate(batch_sizes))
    for name, value in integers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")
    if seconds <= 0:
        raise ValueError(f"`seconds` must be positive. Received: {seconds!r}")
    if devices is not None and (not devices or not set(devices) <= set(_DEVICES)):
        raise ValueError(f"`devices` must be some of {_DEVICES}. Received: {devices!r}")


def _visible_devices() -> tuple[str, ...]:
    return _DEVICES if tf.config.list_physical_devices("GPU") else _DEVICES[:1]


def _prepared(
    models: Mapping[str, Any], scratch: Path, input_shape: InputShape | None
) -> dict[str, tuple[Path, Costs | None]]:
    """Returns the folder of a SavedModel and the costs, as far as they can be known."""
    loaded = {name: _loaded(model) for name, model in models.items()}
    prepared: dict[str, tuple[Path, Costs | None]] = {
        name: (model, None) for name, model in loaded.items() if isinstance(model, Path)
    }
    to_export = {name: model for name, model in loaded.items() if name not in prepared}
    costs = {name: model_costs(model, input_shape) for name, model in to_export.items()}
    freeze = all(map(fits_frozen, to_export.values()))
    for index, (name, model) in enumerate(to_export.items()):
        path = export_saved_model(model, scratch / str(index), verify=False, freeze=freeze)
        prepared[name] = path, costs[name]
    return {name: prepared[name] for name in models}


def _loaded(model: Any) -> Any:
    """Returns the path of a SavedModel, or a model."""
    if not isinstance(model, (str, os.PathLike)):
        return model
    path = Path(model)
    if (path / "saved_model.pb").is_file():
        return path
    if path.suffix != ".keras" or not path.is_file():
        raise FileNotFoundError(
            "A path in `models` must be the folder of a SavedModel or a `.keras` file. "
            f"Received: '{path}'"
        )
    return load_model(path, compile=False)


def _variant_result(
    name: str, costs: Costs | None, size_mib: float, timings: tuple[Timing, ...]
) -> VariantResult:
    if costs is None:
        return VariantResult(name, None, None, (), size_mib, timings)
    return VariantResult(name, costs.parameters, costs.macs, costs.uncounted, size_mib, timings)


def _size_mib(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def _warm_up(
    workers: Mapping[_Key, Worker], batch_sizes: Sequence[int]
) -> dict[tuple[str, str, int], Any]:
    """Warms every worker up, small batches first; returns the peak memory after each."""
    return {
        (*key, size): worker.ask(command="warm_up", batch_size=size, calls=_WARM_UP_CALLS)
        for key, worker in workers.items()
        for size in batch_sizes
    }


def _measure(
    workers: Mapping[_Key, Worker],
    batch_sizes: Sequence[int],
    rounds: int,
    seconds: float,
) -> dict[tuple[str, str, int], list[list[float]]]:
    """Lets the workers take turns; returns the milliseconds of all calls, one list per round."""
    calls_ms: dict[tuple[str, str, int], list[list[float]]] = {}
    turns = list(workers)
    for index in range(rounds):
        first = index % len(turns)
        for size in batch_sizes:
            for key in turns[first:] + turns[:first]:
                answer = workers[key].ask(
                    command="time", batch_size=size, seconds=seconds, calls=_CALLS_PER_ROUND
                )
                calls_ms.setdefault((*key, size), []).append(answer["ms"])
    return calls_ms


def _environment(
    facts: Sequence[Mapping[str, Any]], threads: int | None, rounds: int
) -> dict[str, Any]:
    return {
        "TensorFlow": facts[0]["versions"]["TensorFlow"],
        "CPU": _cpu(),
        "GPU": next((fact["gpu"] for fact in facts if fact["gpu"]), None),
        "threads": "by default" if threads is None else threads,
        "rounds": rounds,
    }


def _cpu() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name} ({cores} logical cores)"
