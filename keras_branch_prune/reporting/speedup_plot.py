"""Draws measured speed-ups against the ratios of MACs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from keras_branch_prune.benchmarking import BenchmarkResult, Timing
from keras_branch_prune.reporting.figures import new_figure, save_figure

_STEP = 1.025
"""Factor on the ratio of MACs by which the points of two backends stand apart."""


def plot_speedup(result: BenchmarkResult, path: str | os.PathLike[str]) -> Path:
    """Draws the measured speed-up of every variant against its ratio of MACs.

    There is one panel per batch size, device and number of threads. The horizontal axis is the MACs
    of the first variant divided by those of the variant, the vertical one its speed-up; both are
    logarithmic. On the grey diagonal the speed-up equals the ratio: a quarter of the MACs takes a
    quarter of the time. Points below it are slower than their MACs promise, as is usual where
    memory or overhead decides.

    Backends differ by colour and marker. Those of one variant are drawn side by side around its
    ratio, at most a few per cent apart, so that their bars do not hide each other. Bars are
    confidence intervals of 95 %, see `BenchmarkResult.speedup_interval`.

    Example:
        >>> models = {"original": model, "pruned": compact}
        >>> path = kbp.plot_speedup(kbp.benchmark(models, seconds=0.1), "speedup.png")

    Args:
        result: What `benchmark` returns, with two variants or more whose MACs are known.
        path: The picture to write; its suffix (`.png`, `.svg`, …) decides the format.

    Returns:
        The path of the picture.

    Raises:
        ImportError: If matplotlib is not installed (`pip install keras_branch_prune[report]`).
        ValueError: If the MACs of the first variant, or of all others, are not known.
    """
    points = _speedup_points(result)
    if not points:
        macs = {variant.name: variant.macs for variant in result.variants}
        raise ValueError(
            f"`result` must have another variant than the first with known MACs. Received: {macs}"
        )
    rows = list(dict.fromkeys(x.timing.batch_size for x in points))
    columns = list(dict.fromkeys((x.timing.device, x.timing.threads) for x in points))
    backends = list(dict.fromkeys(x.timing.backend for x in points))
    figure = new_figure(1 + 4 * len(columns), 1 + 3.5 * len(rows))
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
    for batch_size, line in zip(rows, grid, strict=True):
        for (device, threads), axes in zip(columns, line, strict=True):
            where = (batch_size, device, threads)
            _draw_speedups(axes, [x for x in points if x.panel == where], backends)
            count = "by default" if threads is None else threads
            axes.set_title(f"batch {batch_size}, {device.upper()}, threads {count}", fontsize=9)
    grid[0][0].legend(fontsize=7)
    figure.supxlabel("MACs of the original / MACs of the variant", fontsize=9)
    figure.supylabel("measured speed-up", fontsize=9)
    return save_figure(figure, path)


class _Speedup(NamedTuple):
    """A point of `plot_speedup`."""

    timing: Timing
    macs_ratio: float
    speedup: float
    interval: tuple[float, float]

    @property
    def panel(self) -> tuple[int, str, int | None]:
        return self.timing.batch_size, self.timing.device, self.timing.threads


def _speedup_points(result: BenchmarkResult) -> list[_Speedup]:
    points = []
    # The first variant is what all others are compared with.
    for name in [variant.name for variant in result.variants[1:]]:
        ratio = result.macs_ratio(name)
        for x in result.variant(name).timings if ratio else ():
            where = (x.batch_size, name, x.device)
            speedup = result.speedup(*where, backend=x.backend, threads=x.threads)
            interval = result.speedup_interval(*where, backend=x.backend, threads=x.threads)
            points.append(_Speedup(x, ratio or 0.0, speedup, interval))
    return points


def _draw_speedups(axes: Any, points: Sequence[_Speedup], backends: Sequence[str]) -> None:
    """Draws the points of one panel on logarithmic axes."""
    from matplotlib.ticker import LogLocator

    for index, backend in enumerate(backends):
        own = [x for x in points if x.timing.backend == backend]
        # Centred on the ratio: with three backends at 1/1.025, 1 and 1.025 times it.
        ratios = [x.macs_ratio * _STEP ** (index - (len(backends) - 1) / 2) for x in own]
        lows = [x.speedup - x.interval[0] for x in own]
        highs = [x.interval[1] - x.speedup for x in own]
        look = {"color": f"C{index}", "marker": "osD^v"[index % 5], "linestyle": "none"}
        speedups = [x.speedup for x in own]
        axes.errorbar(ratios, speedups, [lows, highs], label=backend, markersize=4, **look)
    ends = [1.0, *(x.macs_ratio for x in points)]
    promise = [min(ends), max(ends)]
    axes.plot(promise, promise, color="grey", linewidth=0.8, label="as the MACs promise")
    axes.set(xscale="log", yscale="log")
    axes.margins(0.03)
    for axis in (axes.xaxis, axes.yaxis):
        # Powers of ten alone would be too few labels for ratios, all digits too many.
        axis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        axis.set_major_formatter("{x:g}×")
        axis.set_minor_formatter("{x:g}×")
        axis.set_tick_params(which="both", labelsize=7)
