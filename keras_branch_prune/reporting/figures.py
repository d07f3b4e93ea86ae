"""Figures that need no window, and files that are written whole: what all pictures need."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keras_branch_prune.files import atomic_write


def new_figure(width: float, height: float) -> Any:
    """Returns an empty figure.

    Args:
        width: Inches.
        height: Inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib import figure
        from matplotlib.backends import backend_agg
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib: pip install keras_branch_prune[report]"
        ) from error
    # Not by `pyplot`, which chooses a backend for the whole process and keeps every figure.
    empty = figure.Figure(figsize=(width, height), layout="constrained")
    return backend_agg.FigureCanvasAgg(empty).figure


def colormap() -> Any:
    """Returns the colours of numbers in [0, 1], dark to bright."""
    from matplotlib import colormaps

    return colormaps["viridis"]


def save_figure(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Writes a figure in the format that the suffix of the path names; returns the path."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return Path(path)
