"""Recipes of generated graphs that failed once, kept as they were found (see `generated.py`)."""

from helpers.generated import Recipe

REGRESSIONS: tuple[Recipe, ...] = (
    # A grouped convolution that is left with a single channel per group.
    (("grouped", (6, 7, 10)), ("residual", (0, 7, 10))),
    # One of two halves that are multiplied: a depthwise convolution is left with a single channel.
    (("sliced", (11, 9, 5)), ("gated", (7, 8, 2)), ("grouped", (0, 2, 2))),
    (
        ("einsum", (2, 3, 0)),
        ("grouped", (1, 4, 1)),
        ("joined_concat", (1, 8, 11)),
        ("residual", (2, 5, 2)),
        ("merge", (11, 11, 3)),
        ("group_norm", (8, 0, 0)),
        ("grouped", (10, 2, 11)),
        ("concat", (8, 0, 2)),
    ),
)
