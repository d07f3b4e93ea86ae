"""The table that `print` shows of a `BenchmarkResult`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_branch_prune.benchmarking.timing import (
    Peak,
    Timing,
    VariantResult,
    coverage,
    median_interval,
    speedups,
    utilisation,
)
from keras_branch_prune.common import format_table

_CONFIDENCE = 0.95
_Value = Callable[[VariantResult], float | None]


def format_result(
    variants: Sequence[VariantResult], environment: Mapping[str, Any], peaks: Sequence[Peak]
) -> str:
    """Returns the table, one column per variant, and notes on what was measured."""
    header = ["", variants[0].name]
    for variant in variants[1:]:
        header += [variant.name, "ratio"]
    rows = [
        _row(variants, "parameters", lambda variant: variant.parameters, ",d"),
        _row(variants, "MACs per image", lambda variant: variant.macs, ",d"),
        *_size_rows(variants),
    ]
    cases = list({_case(x): x for variant in variants for x in variant.timings}.values())
    names = {_case(case): _case_name(case, cases) for case in cases}
    for make in (_time_row, _share_row, _memory_row):
        rows += [make(variants, case, names[_case(case)], peaks) for case in cases]
    table = format_table(header, [row for row in rows if any(cell != "–" for cell in row[1:])])
    return "\n".join([table, "", *_notes(variants, environment, peaks)])


def _case(timing: Timing) -> tuple[Any, ...]:
    return timing.device, timing.batch_size, timing.backend, timing.threads


def _case_name(case: Timing, cases: Sequence[Timing]) -> str:
    """Returns how a case is called: backend and threads only if there are several."""
    name = f"batch {case.batch_size}"
    if len({x.backend for x in cases}) > 1:
        name += f", {case.backend}"
    if len({x.threads for x in cases}) > 1:
        name += f", {_threads_name(case.threads)}"
    return name


def _threads_name(threads: int | None) -> str:
    if threads is None:
        return "threads by default"
    return "1 thread" if threads == 1 else f"{threads} threads"


def _measured(variant: VariantResult, case: Timing) -> Timing | None:
    return next((x for x in variant.timings if _case(x) == _case(case)), None)


def _row(variants: Sequence[VariantResult], label: str, value: _Value, style: str) -> list[str]:
    first, *others = map(value, variants)
    cells = [label, _formatted(first, style)]
    for number in others:
        ratio = first / number if first and number else None
        cells += [_formatted(number, style), _formatted(ratio, ".2f", "×")]
    return cells


def _size_rows(variants: Sequence[VariantResult]) -> list[list[str]]:
    backends = list(dict.fromkeys(x for variant in variants for x in variant.file_sizes_mib))
    rows = []
    for backend in backends:

        def size(variant: VariantResult, backend: str = backend) -> float | None:
            return variant.file_sizes_mib.get(backend)

        which = f", {backend}" if len(backends) > 1 else ""
        rows.append(_row(variants, f"file size{which}, MiB", size, ".2f"))
    return rows


def _time_row(
    variants: Sequence[VariantResult], case: Timing, name: str, peaks: Sequence[Peak]
) -> list[str]:
    reference = _measured(variants[0], case)
    cells = [f"time/image at {name}, {case.device.upper()}, ms (p95)"]
    for index, variant in enumerate(variants):
        time = _measured(variant, case)
        cells.append(f"{time.p50_ms:.3f} ({time.p95_ms:.3f})" if time else "–")
        if index:
            cells.append(_speedup_cell(reference, time) if reference and time else "–")
    return cells


def _speedup_cell(reference: Timing, other: Timing) -> str:
    ratios = speedups(reference, other)
    low, high = median_interval(ratios, _CONFIDENCE)
    return f"{statistics.median(ratios):.2f}× ({low:.2f}–{high:.2f})"


def _share_row(
    variants: Sequence[VariantResult], case: Timing, name: str, peaks: Sequence[Peak]
) -> list[str]:
    cells = [f"share of the matmul peak at {name}, {case.device.upper()}, %"]
    for index, variant in enumerate(variants):
        time = _measured(variant, case)
        share = utilisation(variant, time, peaks) if time else None
        cells += [_formatted(share and 100 * share, ".1f"), *["–"] * (index > 0)]
    return cells


def _memory_row(
    variants: Sequence[VariantResult], case: Timing, name: str, peaks: Sequence[Peak]
) -> list[str]:
    kind, field = ("RAM", "ram_mib") if case.device == "cpu" else ("VRAM", "vram_mib")

    def value(variant: VariantResult) -> float | None:
        return getattr(_measured(variant, case), field, None)

    return _row(variants, f"{kind} at {name}, MiB", value, ".1f")


def _notes(
    variants: Sequence[VariantResult], environment: Mapping[str, Any], peaks: Sequence[Peak]
) -> list[str]:
    facts = [f"{key} {value}" for key, value in environment.items() if value is not None]
    notes = ["Measured with " + ", ".join(facts) + "."]
    if len(variants) > 1:
        rounds = min(len(x.rounds_ms) for variant in variants for x in variant.timings)
        what = f"{100 * _CONFIDENCE:g} % confidence interval of the median ratio"
        if coverage(rounds) < _CONFIDENCE:
            what = f"range over the rounds, too few for a {what}"
        notes.append(f"In brackets behind a ratio: {what}.")
    for peak in peaks:
        where = f"{peak.device.upper()}, {_threads_name(peak.threads)}"
        notes.append(f"Matmul peak, {where}: {peak.gflops:.1f} GFLOP/s in float32.")
    for variant in variants:
        if variant.uncounted:
            names = ", ".join(variant.uncounted)
            notes.append(f"Not in the MACs of '{variant.name}': {names}.")
    return notes


def _formatted(value: float | None, style: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{style}}{unit}"
