"""What the pictures share: figures without a window, written whole."""

from __future__ import annotations

from typing import Any


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
