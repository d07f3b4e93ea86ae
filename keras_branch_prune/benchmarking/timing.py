"""What a benchmark measures of one variant, and how two such measurements are compared."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from keras_branch_prune.common import require_share


@dataclasses.dataclass(frozen=True)
class Timing:
    """Latency and memory of one variant, as one backend runs it at one batch size.

    Args:
        device: `"cpu"` or `"gpu"`.
        batch_size: Images per call.
        p50_ms: Median over all calls of the time per image, ms (the time of a call / `batch_size`).
        p95_ms: 95th percentile of the same.
        rounds_ms: Median of each round, ms per image; round i of all variants ran side by side.
        ram_mib: Peak RAM after warming up this and the smaller batch sizes, beyond what importing
            the runtime takes, MiB; `None` where the system does not tell.
        vram_mib: Peak GPU memory, MiB; `None` on the CPU.
        backend: What ran it.
        threads: Threads on the CPU; `None` where the runtime chose.
    """

    device: str
    batch_size: int
    p50_ms: float
    p95_ms: float
    rounds_ms: tuple[float, ...]
    ram_mib: float | None = None
    vram_mib: float | None = None
    backend: str = "saved_model"
    threads: int | None = None


@dataclasses.dataclass(frozen=True)
class Peak:
    """How fast large float32 matrices were multiplied.

    Args:
        device: `"cpu"` or `"gpu"`.
        threads: Threads on the CPU; `None` where TensorFlow chose.
        gflops: The highest speed of a call, GFLOP/s.
    """

    device: str
    threads: int | None
    gflops: float


@dataclasses.dataclass(frozen=True)
class VariantResult:
    """The measurements of one variant.

    Args:
        name: The name that the caller gave it.
        parameters: Number of parameters; `None` for an exported model.
        macs: Multiply-accumulates per image; `None` where not known.
        uncounted: Layers that are not part of `macs`.
        file_sizes_mib: Backend → size of all files that it loads, MiB; that of a `.keras` file
            includes the optimizer, if the model has one.
        timings: One entry per device, backend, number of threads and batch size.
    """

    name: str
    parameters: int | None
    macs: int | None
    uncounted: tuple[str, ...]
    file_sizes_mib: Mapping[str, float]
    timings: tuple[Timing, ...]

    def timing(
        self,
        batch_size: int,
        device: str = "cpu",
        backend: str | None = None,
        threads: int | None = None,
    ) -> Timing:
        """Returns one timing.

        Args:
            batch_size: One of the measured batch sizes.
            device: `"cpu"` or `"gpu"`.
            backend: One of the measured backends; `None` takes the first.
            threads: One of the measured numbers of threads; `None` takes the runtime's own choice
                if that was measured, else the first.

        Raises:
            KeyError: If there is no such measurement.
        """
        fitting = [x for x in self.timings if (x.batch_size, x.device) == (batch_size, device)]
        if fitting:
            backend = backend or fitting[0].backend
            fitting = [x for x in fitting if x.backend == backend]
            asked = [x for x in fitting if x.threads == threads]
            fitting = asked or (fitting if threads is None else [])
        if fitting:
            return fitting[0]
        measured = [(x.batch_size, x.device, x.backend, x.threads) for x in self.timings]
        raise KeyError(
            f"'{self.name}' was measured at (batch size, device, backend, threads) {measured}. "
            f"Received: {(batch_size, device, backend, threads)}"
        )


def make_timing(
    device: str,
    batch_size: int,
    calls_ms: list[list[float]],
    memory: Mapping[str, float | None],
    backend: str = "saved_model",
    threads: int | None = None,
) -> Timing:
    """Returns the timing from the milliseconds of all calls, one list per round."""
    rounds = [[call / batch_size for call in calls] for calls in calls_ms]
    pooled = sorted(time for times in rounds for time in times)
    p50, p95 = statistics.median(pooled), pooled[round(0.95 * (len(pooled) - 1))]
    medians = tuple(statistics.median(times) for times in rounds)
    return Timing(device, batch_size, p50, p95, medians, **memory, backend=backend, threads=threads)


def speedups(reference: Timing, other: Timing) -> list[float]:
    """Returns how many times as fast the other was in every round."""
    return [a / b for a, b in zip(reference.rounds_ms, other.rounds_ms, strict=True)]


def median_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Returns a confidence interval of the median of what the values are drawn from.

    The k-th smallest and the k-th largest of n independent values hold the median between them
    with probability 1 − 2 P(X < k), X binomial with n trials of probability ½, whatever their
    distribution (Conover, Practical Nonparametric Statistics, 1999, section 3.2): 6 values from the
    smallest to the largest with 0.97. The largest k that reaches the confidence is taken, or else
    k = 1, the whole range.

    Args:
        values: The values.
        confidence: The probability to reach, in (0, 1).

    Raises:
        ValueError: If `confidence` is out of its range.
    """
    require_share("confidence", confidence)
    ordered, ranks = sorted(values), range(2, (len(values) + 1) // 2 + 1)
    rank = max((k for k in ranks if coverage(len(values), k) >= confidence), default=1)
    return ordered[rank - 1], ordered[-rank]


def coverage(count: int, rank: int = 1) -> float:
    """Returns the probability that the median lies from the rank-th smallest to largest value."""
    return 1 - 2 * sum(math.comb(count, k) for k in range(rank)) / 2**count


def utilisation(variant: VariantResult, timing: Timing, peaks: Sequence[Peak]) -> float | None:
    """Returns 2 · MACs / time per image / peak, or `None` if MACs or peak are not known."""
    where = timing.device, timing.threads
    peak = next((x.gflops for x in peaks if (x.device, x.threads) == where), None)
    if variant.macs is None or peak is None:
        return None
    return 2 * variant.macs / (timing.p50_ms * 1e6) / peak
