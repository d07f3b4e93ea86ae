"""Pictures of a pruning run, of what it may cost and of what it brings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from keras_branch_prune.benchmarking import BenchmarkResult, Timing
from keras_branch_prune.files import atomic_write
from keras_branch_prune.reporting.sensitivities import Sensitivity

_STEP = 1.025

Rows = Sequence[Mapping[str, float]]


def plot_training(
    stages: Mapping[str, Rows],
    path: str | os.PathLike[str],
    metric: str = "accuracy",
) -> Path:
    """Draws a metric over all epochs of a pruning run, coloured by α.

    Args:
        stages: Stage name → the logs of its epochs (see `EpochBackup.history`), one after another.
            The background of an epoch that logs `alpha` has the colour of its α.
        path: The picture to write; its suffix (`.png`, `.svg`, …) decides the format.
        metric: Which metric; `val_` + `metric` is drawn too where it was logged.

    Returns:
        The path of the picture.

    Raises:
        ImportError: If matplotlib is not installed (`pip install keras_branch_prune[report]`).
        ValueError: If no epoch logs the metric.
    """
    figure_class, colormap = _matplotlib()
    if not any(metric in row for rows in stages.values() for row in rows):
        raise ValueError(f"`metric` must be in the logs of `stages`. Received: metric={metric!r}")
    figure = figure_class(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    _shade_alphas(axes, stages, colormap)
    _draw_curves(axes, stages, metric)
    _mark_stages(axes, stages)
    axes.set(xlabel="epoch", ylabel=metric)
    axes.legend(loc="lower right")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return Path(path)


def plot_sensitivity(result: Sensitivity, path: str | os.PathLike[str]) -> Path:
    """Draws how much a model suffers from each group, as a map of groups and widths.

    Args:
        result: What `sensitivity` returns; errors are coloured by their logarithm.
        path: The picture to write; its suffix (`.png`, `.svg`, …) decides the format.

    Returns:
        The path of the picture.

    Raises:
        ImportError: If matplotlib is not installed (`pip install keras_branch_prune[report]`).
    """
    figure_class, colormap = _matplotlib()
    size = (3.5 + 0.7 * len(result.ratios), 1.2 + 0.2 * len(result.groups))
    figure = figure_class(figsize=size, layout="constrained")
    axes = figure.subplots()
    cells = _draw_cells(axes, result, colormap)
    labels = [f"{group.name} ({group.channels})" for group in result.groups]
    axes.set_xticks(range(len(result.ratios)), [f"{ratio:g}" for ratio in result.ratios])
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set(xlabel="share of the channels that stay", title=result.model_name)
    figure.colorbar(cells, label=result.quantity, fraction=0.05)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return Path(path)


def plot_speedup(result: BenchmarkResult, path: str | os.PathLike[str]) -> Path:
    """Draws the measured speed-up of every variant against what its MACs promise.

    There is one panel per batch size, device and number of threads; the backends in it differ by
    colour and marker, and stand side by side around the variant's ratio of MACs. Bars are
    confidence intervals of 95 %, see `BenchmarkResult.speedup_interval`. On the diagonal a variant
    is as many times as fast as it has fewer MACs.

    Args:
        result: What `benchmark` returns, with two variants or more whose MACs are known.
        path: The picture to write; its suffix (`.png`, `.svg`, …) decides the format.

    Returns:
        The path of the picture.

    Raises:
        ImportError: If matplotlib is not installed (`pip install keras_branch_prune[report]`).
        ValueError: If there are no two variants with known MACs, the first among them.
    """
    figure_class, _ = _matplotlib()
    points = _speedup_points(result)
    if not points:
        macs = {variant.name: variant.macs for variant in result.variants}
        raise ValueError(
            f"`result` must have another variant than the first with known MACs. Received: {macs}"
        )
    rows = list(dict.fromkeys(x.timing.batch_size for x in points))
    columns = list(dict.fromkeys((x.timing.device, x.timing.threads) for x in points))
    backends = list(dict.fromkeys(x.timing.backend for x in points))
    size = (1 + 4 * len(columns), 1 + 3.5 * len(rows))
    figure = figure_class(figsize=size, layout="constrained")
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
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return Path(path)


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
        # Side by side, or the bars of all backends would hide each other.
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


def _draw_cells(axes: Any, result: Sensitivity, colormap: Any) -> Any:
    """Fills one cell per group and width, and writes its number into it."""
    values = [list(group.values) for group in result.groups]
    options: dict[str, Any] = {}
    if result.whole is None:
        # Where there is no error, there is no logarithm.
        shown = [value for row in values for value in row if value > 0] or [1.0]
        options = {"norm": "log", "vmin": min(shown), "vmax": max(shown)}
        values = [[max(value, min(shown)) for value in row] for row in values]
    cells = axes.imshow(values, cmap=colormap, aspect="auto", **options)
    for y, group in enumerate(result.groups):
        for x, value in enumerate(group.values):
            bright = cells.norm(values[y][x]) > 0.6
            look = {"ha": "center", "va": "center", "fontsize": 6}
            axes.text(x, y, f"{value:.2g}", color="black" if bright else "white", **look)
    return cells


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib: pip install keras_branch_prune[report]"
        ) from error

    def figure(**options: Any) -> Any:
        canvas = FigureCanvasAgg(Figure(**options))
        return canvas.figure

    return figure, colormaps["viridis"]


def _shade_alphas(axes: Any, stages: Mapping[str, Rows], colormap: Any) -> None:
    """Fills the background of every run of epochs with one α, and writes α at its foot."""
    rows = [row for stage in stages.values() for row in stage]
    start = 0
    for end in range(1, len(rows) + 1):
        alpha = rows[start].get("alpha")
        if end < len(rows) and rows[end].get("alpha") == alpha:
            continue
        if alpha is not None:
            axes.axvspan(start + 0.5, end + 0.5, color=colormap(alpha), alpha=0.35, linewidth=0)
            first = start == 0 or "alpha" not in rows[start - 1]
            label = f"α = {alpha:.2g}" if first else f"{alpha:.2g}"
            place = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "top"}
            axes.text((start + end + 1) / 2, 0.985, label, fontsize=7, **place)
        start = end


def _draw_curves(axes: Any, stages: Mapping[str, Rows], metric: str) -> None:
    for name, label, style in ((metric, "training", "--"), (f"val_{metric}", "validation", "-")):
        values = [row.get(name, float("nan")) for rows in stages.values() for row in rows]
        epochs = range(1, len(values) + 1)
        look = {"color": "black", "marker": ".", "markersize": 4, "linewidth": 1}
        axes.plot(epochs, values, style, label=label, **look)


def _mark_stages(axes: Any, stages: Mapping[str, Rows]) -> None:
    """Draws a line where a stage begins, with the stage's name above the picture."""
    start = 0
    for name, rows in stages.items():
        if rows:
            axes.axvline(start + 0.5, color="grey", linewidth=0.8)
            axes.text(start + 0.6, 1.01, name, transform=axes.get_xaxis_transform(), fontsize=9)
        start += len(rows)
    axes.set_xlim(0.5, start + 0.5)
