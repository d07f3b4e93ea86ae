"""The processes of a benchmark, and the rounds in which they take turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from keras_branch_prune.analysis import InputShape
from keras_branch_prune.benchmarking.timing import Peak
from keras_branch_prune.benchmarking.variants import Variant
from keras_branch_prune.exporting import FORMATS
from keras_branch_prune.runtimes import Options, Worker, WorkerError, start_worker

_WARM_UP_CALLS = 3
_CALLS_PER_ROUND = 3


class BenchmarkError(RuntimeError):
    """A process that measures a model ended, or did not answer within `timeout`.

    The message ends with the last 2,000 characters of the process' error output:

    * A traceback: its last line names the cause, such as a file that the runtime cannot load, an
      input whose shape is open (pass `input_shape`), or a GPU that is not there.
    * Nothing, or text that breaks off: the system killed the process, most often for want of
      memory. Measure smaller batches, or fewer models, backends and numbers of threads at once,
      for each has a process that stays to the end.
    * "gave no answer": the process may be loading a large model or running a slow one. Pass a
      larger `timeout`.

    Example:
        >>> try:
        ...     result = kbp.benchmark({"original": model}, [1024], timeout=0.01)
        ... except kbp.BenchmarkError as error:
        ...     print(str(error).split(" in 0.01 s")[0])
        The process that measures 'original' by saved_model on the CPU gave no answer
    """


class Workload(NamedTuple):
    """What one process measures: a variant as a backend runs it, or products of matrices."""

    device: str
    backend: str
    threads: int | None
    variant: str = ""

    @property
    def runtime(self) -> str:
        """What the process runs: a key of `runtimes.table.RUNTIMES`."""
        return FORMATS[self.backend].runtime if self.variant else self.backend

    @property
    def label(self) -> str:
        """What error messages call the process."""
        what = f"'{self.variant}' by {self.backend}" if self.variant else "products of matrices"
        threads = "" if self.threads is None else f" with threads={self.threads}"
        return f"The process that measures {what} on the {self.device.upper()}{threads}"


CallTimes = dict[tuple[Workload, int], list[list[float]]]
"""Workload and batch size → the milliseconds of all calls, one list per round."""


def model_workloads(
    variants: Mapping[str, Variant], devices: Sequence[str], counts: Sequence[int | None]
) -> list[Workload]:
    """Returns what is to be measured, ordered so that variants are measured next to each other.

    Raises:
        ValueError: If there is nothing to measure of a variant.
    """
    backends = dict.fromkeys(x for variant in variants.values() for x in variant.paths)
    workloads = [
        Workload(device, backend, count, name)
        for device in devices
        for backend in backends
        for count in counts
        for name, variant in variants.items()
        if backend in variant.paths and device in FORMATS[backend].devices
    ]
    for name, variant in variants.items():
        if name not in {workload.variant for workload in workloads}:
            raise ValueError(
                f"'{name}' cannot be measured: its backends {tuple(variant.paths)} run on the CPU "
                f"only. Received: devices={tuple(devices)}"
            )
    return workloads


def peak_workloads(devices: Sequence[str], counts: Sequence[int | None]) -> list[Workload]:
    """Returns the products of matrices that models are compared with."""
    return [Workload(device, "matmul", count) for device in devices for count in counts]


@contextmanager
def start_workers(
    workloads: Sequence[Workload],
    variants: Mapping[str, Variant],
    input_shape: InputShape | None,
    timeout: float,
) -> Iterator[dict[Workload, Worker]]:
    """Starts one process per workload, and ends them all at the end of the block.

    Raises:
        BenchmarkError: If a process ends or does not answer within the block.
    """
    with ExitStack() as stack:
        workers = {}
        for workload in workloads:
            name = workload.variant
            path = variants[name].paths[workload.backend] if name else ""
            options = Options(workload.threads, workload.device, reshape=True)
            worker = start_worker(
                workload.label, workload.runtime, path, timeout, options, input_shape
            )
            workers[workload] = stack.enter_context(worker)
        try:
            yield workers
        except WorkerError as error:
            raise BenchmarkError(str(error)) from error


def warm_up(
    workers: Mapping[Workload, Worker], batch_sizes: Sequence[int]
) -> dict[tuple[Workload, int], Any]:
    """Warms every worker up, small batches first; returns the peak memory after each size."""
    # A peak never falls: the other way round, all sizes would show that of the largest.
    return {
        (workload, size): worker.ask("warm_up", batch_size=size, calls=_WARM_UP_CALLS)
        for workload, worker in workers.items()
        for size in _sizes_of(workload, batch_sizes)
    }


def measure(
    workers: Mapping[Workload, Worker], batch_sizes: Sequence[int], rounds: int, seconds: float
) -> CallTimes:
    """Lets the workers take turns; returns the milliseconds of all calls."""
    calls_ms: CallTimes = {}
    turns = list(workers)
    for index in range(rounds):
        first = index % len(turns)
        for size in batch_sizes:
            for workload in turns[first:] + turns[:first]:
                if size in _sizes_of(workload, batch_sizes):
                    turn = {"batch_size": size, "seconds": seconds, "calls": _CALLS_PER_ROUND}
                    answer = workers[workload].ask("time", **turn)
                    calls_ms.setdefault((workload, size), []).append(answer["ms"])
    return calls_ms


def _sizes_of(workload: Workload, batch_sizes: Sequence[int]) -> Sequence[int]:
    """Returns the batch sizes to measure; products of matrices have none and are measured once."""
    return batch_sizes if workload.variant else batch_sizes[:1]


def find_peaks(flops: Mapping[Workload, int | None], calls_ms: CallTimes) -> tuple[Peak, ...]:
    """Returns the highest speed of each product of matrices, given the FLOP of one call."""
    # FLOP / (1e6 · ms) is GFLOP/s.
    return tuple(
        Peak(workload.device, workload.threads, flop / (1e6 * min(map(min, calls))))
        for (workload, _), calls in calls_ms.items()
        if (flop := flops[workload])
    )
