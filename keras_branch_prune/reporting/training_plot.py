"""Draws a metric over the epochs of a pruning run, coloured by α."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_branch_prune.reporting.figures import colormap, new_figure, save_figure

Rows = Sequence[Mapping[str, float]]


def plot_training(
    stages: Mapping[str, Rows],
    path: str | os.PathLike[str],
    metric: str = "accuracy",
) -> Path:
    """Draws a metric over all epochs of a pruning run, coloured by α.

    Example:
        >>> blend = [{"accuracy": 0.8, "alpha": 1.0}, {"accuracy": 0.9, "alpha": 0.5}]
        >>> stages = {"blend": blend, "finetune": [{"accuracy": 0.95}]}
        >>> path = keras_branch_prune.plot_training(stages, "training.png")

    Args:
        stages: Stage name → the logs of its epochs, as in `EpochBackup.history`; the stages are
            drawn one after another. The background of an epoch that logs `alpha` has the colour of
            its α.
        path: The picture to write; its suffix (`.png`, `.svg`, …) decides the format.
        metric: Name of the metric; that of validation, `val_…`, is drawn too where it was logged.

    Returns:
        The path of the picture.

    Raises:
        ImportError: If matplotlib is not installed (`pip install keras_branch_prune[report]`).
        ValueError: If no epoch logs the metric.
    """
    if not any(metric in row for rows in stages.values() for row in rows):
        raise ValueError(f"`metric` must be in the logs of `stages`. Received: metric={metric!r}")
    figure = new_figure(10, 4.5)
    axes = figure.subplots()
    _shade_alphas(axes, stages, colormap())
    _draw_curves(axes, stages, metric)
    _mark_stages(axes, stages)
    axes.set(xlabel="epoch", ylabel=metric)
    axes.legend(loc="lower right")
    return save_figure(figure, path)


def _shade_alphas(axes: Any, stages: Mapping[str, Rows], colors: Any) -> None:
    """Fills the background of neighbouring epochs of one α, and writes the α at the top."""
    rows = [row for stage in stages.values() for row in stage]
    start = 0
    for end in range(1, len(rows) + 1):
        alpha = rows[start].get("alpha")
        if end < len(rows) and rows[end].get("alpha") == alpha:
            continue
        if alpha is not None:
            axes.axvspan(start + 0.5, end + 0.5, color=colors(alpha), alpha=0.35, linewidth=0)
            # "α = " only on the first of a row of labels, which may stand close together.
            first = start == 0 or "alpha" not in rows[start - 1]
            label = f"α = {alpha:.2g}" if first else f"{alpha:.2g}"
            place = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "top"}
            axes.text((start + end + 1) / 2, 0.985, label, fontsize=7, **place)
        start = end


def _draw_curves(axes: Any, stages: Mapping[str, Rows], metric: str) -> None:
    for name, label, style in ((metric, "training", "--"), (f"val_{metric}", "validation", "-")):
        # NaN leaves a gap, where an epoch had no validation.
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
