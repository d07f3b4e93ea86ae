"""The processes of a benchmark, and the rounds in which they take turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from keras_branch_prune.analysis import InputShape
from keras_branch_prune.benchmarking.backends import BACKENDS, Prepared
from keras_branch_prune.benchmarking.timing import Peak
from keras_branch_prune.runtimes import Options, Worker, WorkerError, start_worker

_WARM_UP_CALLS = 3
_CALLS_PER_ROUND = 3


class BenchmarkError(RuntimeError):
    """A process that measures a model ended, or did not answer within `timeout`.

    The message ends with the last 2,000 characters of the process' error output. The last line of a
    traceback there names the cause: a file that the runtime cannot load, an input whose shape is
    open (pass `input_shape`), a GPU that is not there. Output that breaks off, or none, means that
    the system ended the process, most often for want of memory: measure smaller batches, or fewer
    models, backends and numbers of threads at once, for each has a process that stays. One that
    gave no answer may be loading a large model or running a slow one: pass a larger `timeout`.
    """


class Case(NamedTuple):
    """What one process measures; the products of matrices have no variant."""

    device: str
    backend: str
    threads: int | None
    variant: str = ""

    @property
    def label(self) -> str:
        """What error messages call it."""
        what = f"'{self.variant}' by {self.backend}" if self.variant else "products of matrices"
        threads = "" if self.threads is None else f" with threads={self.threads}"
        return f"{what} on the {self.device.upper()}{threads}"


Calls = dict[tuple[Case, int], list[list[float]]]
"""Case and batch size → the milliseconds of all calls, one list per round."""


def model_cases(
    variants: Mapping[str, Prepared], devices: Sequence[str], counts: Sequence[int | None]
) -> list[Case]:
    """Returns what is to be measured; what is compared with each other stands side by side.

    Raises:
        ValueError: If nothing is to be measured of a variant.
    """
    backends = dict.fromkeys(x for prepared in variants.values() for x in prepared.paths)
    cases = [
        Case(device, backend, count, name)
        for device in devices
        for backend in backends
        for count in counts
        for name, prepared in variants.items()
        if backend in prepared.paths and device in BACKENDS[backend].devices
    ]
    for name, prepared in variants.items():
        if name not in {case.variant for case in cases}:
            raise ValueError(
                f"'{name}' cannot be measured: its backends {tuple(prepared.paths)} run on the CPU "
                f"only. Received: devices={tuple(devices)}"
            )
    return cases


def peak_cases(devices: Sequence[str], counts: Sequence[int | None]) -> list[Case]:
    """Returns the products of matrices that models are compared with."""
    return [Case(device, "matmul", count) for device in devices for count in counts]


@contextmanager
def started(
    cases: Sequence[Case],
    variants: Mapping[str, Prepared],
    input_shape: InputShape | None,
    timeout: float,
) -> Iterator[dict[Case, Worker]]:
    """Starts one process per case, and ends them all at the end of the block."""
    with ExitStack() as stack:
        workers = {}
        for case in cases:
            path = variants[case.variant].paths[case.backend] if case.variant else ""
            options = Options(case.threads, case.device, reshape=True)
            worker = start_worker(case.backend, path, timeout, options, input_shape)
            workers[case] = stack.enter_context(worker)
        yield workers


def ask_facts(workers: Mapping[Case, Worker]) -> dict[Case, Any]:
    """Waits until all models are loaded; returns versions, GPU and FLOP of every worker."""
    return {case: _ask(workers, case, "facts") for case in workers}


def _ask(workers: Mapping[Case, Worker], case: Case, command: str, **arguments: Any) -> Any:
    try:
        return workers[case].ask(command, **arguments)
    except WorkerError as error:
        raise BenchmarkError(
            f"The process that measures {case.label} {error.what}. "
            f"Its error output:\n{error.output}"
        ) from error


def warm_up(
    workers: Mapping[Case, Worker], batch_sizes: Sequence[int]
) -> dict[tuple[Case, int], Any]:
    """Warms every worker up, small batches first; returns the peak memory after each."""
    return {
        (case, size): _ask(workers, case, "warm_up", batch_size=size, calls=_WARM_UP_CALLS)
        for case in workers
        for size in _sizes(case, batch_sizes)
    }


def measure(
    workers: Mapping[Case, Worker], batch_sizes: Sequence[int], rounds: int, seconds: float
) -> Calls:
    """Lets the workers take turns; returns the milliseconds of all calls."""
    calls_ms: Calls = {}
    turns = list(workers)
    for index in range(rounds):
        first = index % len(turns)
        for size in batch_sizes:
            for case in turns[first:] + turns[:first]:
                if size in _sizes(case, batch_sizes):
                    turn = {"batch_size": size, "seconds": seconds, "calls": _CALLS_PER_ROUND}
                    answer = _ask(workers, case, "time", **turn)
                    calls_ms.setdefault((case, size), []).append(answer["ms"])
    return calls_ms


def _sizes(case: Case, batch_sizes: Sequence[int]) -> Sequence[int]:
    """Returns the batch sizes to measure; products of matrices have none and are measured once."""
    return batch_sizes if case.variant else batch_sizes[:1]


def peaks(flops: Mapping[Case, int | None], calls_ms: Calls) -> tuple[Peak, ...]:
    """Returns the highest speed of each product of matrices, given their FLOP."""
    return tuple(
        Peak(case.device, case.threads, flop / (1e6 * min(map(min, calls))))
        for (case, _), calls in calls_ms.items()
        if (flop := flops[case])
    )
