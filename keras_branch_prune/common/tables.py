"""Plain-text tables."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table of left-aligned columns as text, with the header underlined.

    Args:
        header: The names of the columns.
        rows: The cells, as many per row as there are columns.

    Raises:
        ValueError: If a row has more or fewer cells than the header.

    Example:
        >>> from keras_branch_prune.common import format_table
        >>> print(format_table(("group", "channels"), [("conv1", "64")]))
        group  channels
        -----  --------
        conv1  64
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
