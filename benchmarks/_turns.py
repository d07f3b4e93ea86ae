"""Times functions in turns: a slow moment of the machine hits all alike. Names the CPU, too."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

_WARM_UP_CALLS = 3
_LEAST_CALLS = 3


def medians(
    runs: Mapping[str, Callable[[], object]], rounds: int, seconds: float
) -> dict[str, float]:
    """Returns the median time of a call of every function, ms.

    Args:
        runs: Functions by name, that return when all is computed.
        rounds: Turns that every function takes, in every round in another order.
        seconds: Least time of one turn, s.
    """
    for run in runs.values():
        for _ in range(_WARM_UP_CALLS):
            run()
    calls: dict[str, list[float]] = {name: [] for name in runs}
    turns = list(runs)
    for number in range(rounds):
        first = number % len(turns)
        for name in turns[first:] + turns[:first]:
            calls[name] += _turn(runs[name], seconds)
    return {name: statistics.median(times) for name, times in calls.items()}


def _turn(run: Callable[[], object], seconds: float) -> list[float]:
    calls: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(calls) < _LEAST_CALLS:
        start = time.perf_counter()
        run()
        calls.append((time.perf_counter() - start) * 1e3)
    return calls


def cpu() -> str:
    """Returns the name of the CPU and the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"{name} ({cores} logical cores)"
