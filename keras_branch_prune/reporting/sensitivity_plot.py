"""Draws how much a model suffers from each group, as a map of groups and widths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keras_branch_prune.reporting.figures import colormap, new_figure, save_figure
from keras_branch_prune.reporting.sensitivities import Sensitivity


def plot_sensitivity(result: Sensitivity, path: str | os.PathLike[str]) -> Path:
    """Draws how much a model suffers from each group, as a map of groups and widths.

    Example:
        >>> result = keras_branch_prune.sensitivity(model, calibration=images)
        >>> path = keras_branch_prune.plot_sensitivity(result, "sensitivity.png")

    Args:
        result: What `sensitivity` returns. Errors are coloured by their logarithm, a metric by its
            value; every cell also holds its number.
        path: The picture to write; its suffix (`.png`, `.svg`, …) decides the format.

    Returns:
        The path of the picture.

    Raises:
        ImportError: If matplotlib is not installed (`pip install keras_branch_prune[report]`).
    """
    figure = new_figure(3.5 + 0.7 * len(result.ratios), 1.2 + 0.2 * len(result.groups))
    axes = figure.subplots()
    cells = _draw_cells(axes, result, colormap())
    labels = [f"{group.name} ({group.channels})" for group in result.groups]
    axes.set_xticks(range(len(result.ratios)), [f"{ratio:g}" for ratio in result.ratios])
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set(xlabel="share of the channels that stay", title=result.model_name)
    figure.colorbar(cells, label=result.quantity, fraction=0.05)
    return save_figure(figure, path)


def _draw_cells(axes: Any, result: Sensitivity, colors: Any) -> Any:
    """Fills one cell per group and width, and writes its number into it."""
    values = [list(group.values) for group in result.groups]
    options: dict[str, Any] = {}
    if result.whole is None:
        # An error of 0 has no logarithm: it takes the colour of the smallest other one.
        shown = [value for row in values for value in row if value > 0] or [1.0]
        options = {"norm": "log", "vmin": min(shown), "vmax": max(shown)}
        values = [[max(value, min(shown)) for value in row] for row in values]
    cells = axes.imshow(values, cmap=colors, aspect="auto", **options)
    for y, group in enumerate(result.groups):
        for x, value in enumerate(group.values):
            # Black on viridis' yellow, white on its blue.
            bright = cells.norm(values[y][x]) > 0.6
            look = {"ha": "center", "va": "center", "fontsize": 6}
            axes.text(x, y, f"{value:.2g}", color="black" if bright else "white", **look)
    return cells
