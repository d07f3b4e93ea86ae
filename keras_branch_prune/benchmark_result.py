"""The result of `benchmark`: numbers per variant, their ratios, and the table."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from keras_branch_prune.tables import format_table


@dataclasses.dataclass(frozen=True)
class Timing:
    """Latency and memory of one variant on one device at one batch size.

    Args:
        device: `"cpu"` or `"gpu"`.
        batch_size: Images per call.
        p50_ms: Median over all calls of the time per image, ms (the time of a call / `batch_size`).
        p95_ms: 95th percentile of the same.
        rounds_ms: Median of each round, ms per image; round i of all variants ran side by side.
        ram_mib: Peak RAM after warming up this and the smaller batch sizes, over that of a process
            that only imports TensorFlow, MiB; `None` where the system does not tell.
        vram_mib: Peak GPU memory, MiB; `None` on the CPU.
    """

    device: str
    batch_size: int
    p50_ms: float
    p95_ms: float
    rounds_ms: tuple[float, ...]
    ram_mib: float | None = None
    vram_mib: float | None = None


@dataclasses.dataclass(frozen=True)
class VariantResult:
    """What was found out about one variant.

    Args:
        name: The name that the caller gave it.
        parameters: Number of parameters; `None` for a SavedModel, which does not tell.
        macs: Multiply-accumulates per image; `None` where not known.
        uncounted: Layers that are not part of `macs`.
        file_size_mib: Size of all files of the SavedModel, MiB.
        timings: One entry per device and batch size.
    """

    name: str
    parameters: int | None
    macs: int | None
    uncounted: tuple[str, ...]
    file_size_mib: float
    timings: tuple[Timing, ...]

    def timing(self, batch_size: int, device: str = "cpu") -> Timing:
        """Returns one timing; raises `KeyError` if there was none."""
        for timing in self.timings:
            if (timing.batch_size, timing.device) == (batch_size, device):
                return timing
        measured = [(timing.batch_size, timing.device) for timing in self.timings]
        raise KeyError(
            f"'{self.name}' was measured at (batch size, device) {measured}. "
            f"Received: ({batch_size}, '{device}')"
        )


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """Measurements of several variants; `print` shows them as a table.

    Args:
        variants: One entry per variant; the first is what the others are compared with.
        environment: What the numbers depend on: TensorFlow version, CPU, GPU, threads, rounds.
    """

    variants: tuple[VariantResult, ...]
    environment: Mapping[str, Any]

    def variant(self, name: str | None = None) -> VariantResult:
        """Returns the variant of this name; without one, the second of two."""
        names = [variant.name for variant in self.variants]
        if name is None and len(names) == 2:
            return self.variants[1]
        if name not in names:
            raise KeyError(f"`variant` must be one of {names}. Received: {name!r}")
        return self.variants[names.index(name)]

    def speedup(self, batch_size: int, variant: str | None = None, device: str = "cpu") -> float:
        """Returns how many times as fast a variant is as the first: the ratio of their medians.

        Args:
            batch_size: One of the measured batch sizes.
            variant: Name of the variant; may be left out if there are two.
            device: `"cpu"` or `"gpu"`.

        Raises:
            KeyError: If there is no such measurement.
        """
        reference, other = self._pair(batch_size, variant, device)
        return reference.p50_ms / other.p50_ms

    def speedup_range(
        self, batch_size: int, variant: str | None = None, device: str = "cpu"
    ) -> tuple[float, float]:
        """Returns the smallest and the largest speed-up of one round; arguments as `speedup`."""
        reference, other = self._pair(batch_size, variant, device)
        ratios = [a / b for a, b in zip(reference.rounds_ms, other.rounds_ms, strict=True)]
        return min(ratios), max(ratios)

    def _pair(self, batch_size: int, variant: str | None, device: str) -> tuple[Timing, Timing]:
        other = self.variant(variant)
        return self.variants[0].timing(batch_size, device), other.timing(batch_size, device)

    def to_json(self) -> dict[str, Any]:
        """Returns the result as a dict that `json.dumps` takes."""
        return {
            "variants": [dataclasses.asdict(variant) for variant in self.variants],
            "environment": dict(self.environment),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BenchmarkResult:
        """Returns the result that `to_json` was called on."""
        return cls(tuple(map(_variant_from_json, data["variants"])), dict(data["environment"]))

    def __str__(self) -> str:
        first, *others = self.variants
        header = ["", first.name]
        for variant in others:
            header += [variant.name, "ratio"]
        rows = [self._row(label, value, style) for label, value, style in _QUANTITIES]
        for timing in first.timings:
            rows.append(self._time_row(timing))
        for timing in first.timings:
            rows.append(self._memory_row(timing))
        table = format_table(header, [row for row in rows if any(cell != "–" for cell in row[1:])])
        return "\n".join([table, *self._notes()])

    def _row(
        self, label: str, value: Callable[[VariantResult], float | None], style: str
    ) -> list[str]:
        values = [value(variant) for variant in self.variants]
        cells = [label, _formatted(values[0], style)]
        for number in values[1:]:
            ratio = values[0] / number if values[0] and number else None
            cells += [_formatted(number, style), _formatted(ratio, ".2f", "×")]
        return cells

    def _time_row(self, timing: Timing) -> list[str]:
        batch_size, device = timing.batch_size, timing.device
        cells = [f"time/image at batch {batch_size}, {device.upper()}, ms (p95)"]
        for index, variant in enumerate(self.variants):
            time = variant.timing(batch_size, device)
            cells.append(f"{time.p50_ms:.3f} ({time.p95_ms:.3f})")
            if index:
                low, high = self.speedup_range(batch_size, variant.name, device)
                ratio = self.speedup(batch_size, variant.name, device)
                cells.append(f"{ratio:.2f}× ({low:.2f}–{high:.2f})")
        return cells

    def _memory_row(self, timing: Timing) -> list[str]:
        kind, field = ("RAM", "ram_mib") if timing.device == "cpu" else ("VRAM", "vram_mib")

        def value(variant: VariantResult) -> float | None:
            return getattr(variant.timing(timing.batch_size, timing.device), field)

        return self._row(f"{kind} at batch {timing.batch_size}, MiB", value, ".1f")

    def _notes(self) -> list[str]:
        facts = [f"{key} {value}" for key, value in self.environment.items() if value is not None]
        notes = ["", "Measured with " + ", ".join(facts) + "."]
        for variant in self.variants:
            if variant.uncounted:
                names = ", ".join(variant.uncounted)
                notes.append(f"Not in the MACs of '{variant.name}': {names}.")
        return notes


_QUANTITIES: tuple[tuple[str, Callable[[VariantResult], float | None], str], ...] = (
    ("parameters", lambda variant: variant.parameters, ",d"),
    ("MACs per image", lambda variant: variant.macs, ",d"),
    ("file size, MiB", lambda variant: variant.file_size_mib, ".2f"),
)


def _formatted(value: float | None, style: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{style}}{unit}"


def _variant_from_json(data: Mapping[str, Any]) -> VariantResult:
    timings = tuple(
        Timing(**{**timing, "rounds_ms": tuple(timing["rounds_ms"])}) for timing in data["timings"]
    )
    return VariantResult(**{**data, "uncounted": tuple(data["uncounted"]), "timings": timings})


def make_timing(
    device: str,
    batch_size: int,
    calls_ms: list[list[float]],
    memory: Mapping[str, float | None],
) -> Timing:
    """Returns the timing from the milliseconds of all calls, one list per round."""
    rounds = [[call / batch_size for call in calls] for calls in calls_ms]
    pooled = sorted(time for times in rounds for time in times)
    p95 = pooled[min(len(pooled) - 1, round(0.95 * (len(pooled) - 1)))]
    medians = tuple(statistics.median(times) for times in rounds)
    return Timing(device, batch_size, statistics.median(pooled), p95, medians, **memory)
