"""Checks of numeric arguments, with one form of message for all."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any


def require_number(name: str, value: Any, in_range: Callable[[Any], bool], expected: str) -> float:
    """Returns `value` as a float, or raises `ValueError` unless it is a number in range."""
    # To Python, True is an integer: as a number of epochs it is a mistake.
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not in_range(value):
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")
    return float(value)


def require_integer(name: str, value: Any, at_least: int) -> int:
    """Returns `value` as an integer, or raises `ValueError` unless it is one in range."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < at_least:
        raise ValueError(
            f"`{name}` must be an integer of at least {at_least}. Received: {name}={value!r}"
        )
    return int(value)


def number_up_to(name: str, value: Any, at_most: float) -> float:
    """Returns `value` as a float, or raises `ValueError` unless it is in [0, at_most]."""
    expected = f"a number in [0, {at_most:g}]"
    return require_number(name, value, lambda x: 0 <= x <= at_most, expected)


def check_share(argument: str, share: Any) -> None:
    """Raises `ValueError` unless the argument of this name is a number in (0, 1)."""
    number = isinstance(share, (int, float)) and not isinstance(share, bool)
    if not number or not 0 < share < 1:
        raise ValueError(f"`{argument}` must be a number in (0, 1). Received: {share!r}")


def number_or_nan(value: Any) -> float:
    """Returns a number as a float and all else as NaN, so that every check of a range fails."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return float(value) if is_number else float("nan")
