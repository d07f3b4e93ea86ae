"""The result of `benchmark`: numbers per variant, and what follows from them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

from keras_branch_prune.benchmarking.table import format_result
from keras_branch_prune.benchmarking.timing import (
    Peak,
    Timing,
    VariantResult,
    median_interval,
    speedups,
    utilisation,
)


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """Measurements of several variants; `print` shows them as a table.

    The methods take the batch size; the name of the variant, which may be left out if there are
    two; the device, `"cpu"` or `"gpu"`; the backend, where `None` takes the first that the variant
    was measured with; and the number of threads, where `None` takes the runtime's own choice if
    that was measured, else the first. They raise `KeyError` if there is no such measurement.

    Args:
        variants: One entry per variant; the others are compared with the first.
        environment: What the numbers depend on: versions, CPU, GPU, threads, rounds.
        peaks: How fast matrices were multiplied, per device and number of threads.

    Example:
        >>> compact = keras_branch_prune.select(model, plan)
        >>> result = keras_branch_prune.benchmark(
        ...     {"original": model, "compact": compact}, [1, 8], rounds=2, seconds=0.01, peak=False)
        >>> slowest, fastest = result.speedup_range(batch_size=8)
        >>> slowest <= result.speedup(batch_size=8) <= fastest
        True
        >>> result.macs_ratio() > 1
        True
        >>> keras_branch_prune.BenchmarkResult.from_json(result.to_json()) == result
        True
    """

    variants: tuple[VariantResult, ...]
    environment: Mapping[str, Any]
    peaks: tuple[Peak, ...] = ()

    def variant(self, name: str | None = None) -> VariantResult:
        """Returns the variant of this name; without one, the second of two."""
        names = [variant.name for variant in self.variants]
        if name is None and len(names) == 2:
            return self.variants[1]
        if name not in names:
            raise KeyError(f"`variant` must be one of {names}. Received: {name!r}")
        return self.variants[names.index(name)]

    def speedup(
        self,
        batch_size: int,
        variant: str | None = None,
        device: str = "cpu",
        *,
        backend: str | None = None,
        threads: int | None = None,
    ) -> float:
        """Returns how many times as fast a variant is as the first: the median over the rounds."""
        return statistics.median(self._speedups(batch_size, variant, device, backend, threads))

    def speedup_range(
        self,
        batch_size: int,
        variant: str | None = None,
        device: str = "cpu",
        *,
        backend: str | None = None,
        threads: int | None = None,
    ) -> tuple[float, float]:
        """Returns the smallest and the largest speed-up of one round."""
        ratios = self._speedups(batch_size, variant, device, backend, threads)
        return min(ratios), max(ratios)

    def speedup_interval(
        self,
        batch_size: int,
        variant: str | None = None,
        device: str = "cpu",
        *,
        backend: str | None = None,
        threads: int | None = None,
        confidence: float = 0.95,
    ) -> tuple[float, float]:
        """Returns a confidence interval of `speedup`, whatever the distribution of the rounds.

        Its ends are two order statistics of the rounds' speed-ups (Conover, Practical Nonparametric
        Statistics, 1999, section 3.2). With too few rounds for the confidence (fewer than 6 for
        95 %) it is their whole range.
        """
        ratios = self._speedups(batch_size, variant, device, backend, threads)
        return median_interval(ratios, confidence)

    def macs_ratio(self, variant: str | None = None) -> float | None:
        """Returns the first variant's MACs divided by this one's; `None` where not known."""
        reference, other = self.variants[0].macs, self.variant(variant).macs
        return reference / other if reference and other else None

    def utilisation(
        self,
        batch_size: int,
        variant: str | None = None,
        device: str = "cpu",
        *,
        backend: str | None = None,
        threads: int | None = None,
    ) -> float | None:
        """Returns a variant's FLOP/s as a share of those at which large matrices are multiplied.

        A MAC counts as 2 FLOP. The share may be above 1: Winograd's algorithm needs fewer for a
        convolution.

        Returns:
            2 · MACs / time per image / peak, or `None` if MACs or peak are not known.
        """
        found = self.variant(variant)
        timing = found.timing(batch_size, device, backend, threads)
        return utilisation(found, timing, self.peaks)

    def _speedups(self, batch_size: int, variant: str | None, *where: Any) -> list[float]:
        other = self.variant(variant).timing(batch_size, *where)
        # With the backend and threads that `None` stood for.
        reference = self.variants[0].timing(batch_size, other.device, other.backend, other.threads)
        return speedups(reference, other)

    def to_json(self) -> dict[str, Any]:
        """Returns the result as a dict that `json.dumps` takes."""
        return {
            "variants": [dataclasses.asdict(variant) for variant in self.variants],
            "environment": dict(self.environment),
            "peaks": [dataclasses.asdict(peak) for peak in self.peaks],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BenchmarkResult:
        """Returns the result that `to_json` made the dict of."""
        variants = tuple(map(_variant_from_json, data["variants"]))
        return cls(variants, dict(data["environment"]), tuple(Peak(**x) for x in data["peaks"]))

    def __str__(self) -> str:
        return format_result(self.variants, self.environment, self.peaks)


def _variant_from_json(data: Mapping[str, Any]) -> VariantResult:
    # JSON has no tuples: they come back as lists.
    timings = tuple(
        Timing(**{**timing, "rounds_ms": tuple(timing["rounds_ms"])}) for timing in data["timings"]
    )
    return VariantResult(**{**data, "uncounted": tuple(data["uncounted"]), "timings": timings})
