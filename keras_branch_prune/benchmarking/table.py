"""The table that `print` shows of a `BenchmarkResult`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
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
_NOTHING = "–"


def format_result(
    variants: Sequence[VariantResult], environment: Mapping[str, Any], peaks: Sequence[Peak]
) -> str:
    """Returns the table, one column per variant, and notes on what was measured."""
    header = ["", variants[0].name]
    for variant in variants[1:]:
        header += [variant.name, "ratio"]
    rows = [
        _ratio_row("parameters", [x.parameters for x in variants], ",d"),
        _ratio_row("MACs per image", [x.macs for x in variants], ",d"),
        *_size_rows(variants),
    ]
    cases = list({_case(x): x for variant in variants for x in variant.timings}.values())
    names = {_case(case): _case_name(case, cases) for case in cases}
    for make_row in (_time_row, _share_row, _memory_row):
        rows += [make_row(variants, case, names[_case(case)], peaks) for case in cases]
    table = format_table(header, [row for row in rows if any(cell != _NOTHING for cell in row[1:])])
    return "\n".join([table, "", *_notes(variants, environment, peaks)])


def _case(timing: Timing) -> tuple[Any, ...]:
    """Returns what the timings of several variants have in common where they are compared."""
    return timing.device, timing.batch_size, timing.backend, timing.threads


def _case_name(case: Timing, cases: Sequence[Timing]) -> str:
    """Returns the name of a case, such as "batch 1"; with backend and threads if they vary."""
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


def _find_timing(variant: VariantResult, case: Timing) -> Timing | None:
    return next((x for x in variant.timings if _case(x) == _case(case)), None)


def _ratio_row(label: str, values: Iterable[float | None], style: str) -> list[str]:
    """Returns a row of the values, each but the first with the first divided by it."""
    first, *others = values
    cells = [label, _format(first, style)]
    for number in others:
        ratio = first / number if first and number else None
        cells += [_format(number, style), _format(ratio, ".2f", "×")]
    return cells


def _size_rows(variants: Sequence[VariantResult]) -> list[list[str]]:
    backends = dict.fromkeys(x for variant in variants for x in variant.file_sizes_mib)
    rows = []
    for backend in backends:
        label = f"file size, {backend}, MiB" if len(backends) > 1 else "file size, MiB"
        rows.append(_ratio_row(label, [x.file_sizes_mib.get(backend) for x in variants], ".2f"))
    return rows


def _time_row(
    variants: Sequence[VariantResult], case: Timing, name: str, peaks: Sequence[Peak]
) -> list[str]:
    first, *others = [_find_timing(variant, case) for variant in variants]
    cells = [f"time/image at {name}, {case.device.upper()}, ms (p95)", _time_cell(first)]
    for other in others:
        cells += [_time_cell(other), _speedup_cell(first, other)]
    return cells


def _time_cell(time: Timing | None) -> str:
    return f"{time.p50_ms:.3f} ({time.p95_ms:.3f})" if time else _NOTHING


def _speedup_cell(reference: Timing | None, other: Timing | None) -> str:
    if reference is None or other is None:
        return _NOTHING
    ratios = speedups(reference, other)
    low, high = median_interval(ratios, _CONFIDENCE)
    return f"{statistics.median(ratios):.2f}× ({low:.2f}–{high:.2f})"


def _share_row(
    variants: Sequence[VariantResult], case: Timing, name: str, peaks: Sequence[Peak]
) -> list[str]:
    cells = [f"share of the matmul peak at {name}, {case.device.upper()}, %"]
    for index, variant in enumerate(variants):
        time = _find_timing(variant, case)
        share = utilisation(variant, time, peaks) if time else None
        cells += [_format(share and 100 * share, ".1f"), *[_NOTHING] * (index > 0)]
    return cells


def _memory_row(
    variants: Sequence[VariantResult], case: Timing, name: str, peaks: Sequence[Peak]
) -> list[str]:
    kind, field = ("RAM", "ram_mib") if case.device == "cpu" else ("VRAM", "vram_mib")
    peak_memory = [getattr(_find_timing(x, case), field, None) for x in variants]
    return _ratio_row(f"{kind} at {name}, MiB", peak_memory, ".1f")


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


def _format(value: float | None, style: str, unit: str = "") -> str:
    return _NOTHING if value is None else f"{value:{style}}{unit}"
