"""Checks of arguments, with one form of message: "`x` must be …. Received: x=…".

A bool is no number here, though Python counts it among the integers: `epochs=True` is a mistake.
NumPy's numbers are numbers. All checks raise `ValueError`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any


def require(holds: bool, name: str, value: Any, expected: str) -> None:
    """Raises unless something holds of the argument `name`, which "must be `expected`"."""
    if not holds:
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def require_number(name: str, value: Any, in_range: Callable[[Any], bool], expected: str) -> float:
    """Returns `value` as a float, or raises unless it is a number in range."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    require(number and bool(in_range(value)), name, value, expected)
    return float(value)


def require_positive(name: str, value: Any) -> float:
    """Returns `value` as a float, or raises unless it is a finite number above 0."""
    return require_number(name, value, lambda x: 0 < x < math.inf, "a positive number")


def require_number_up_to(name: str, value: Any, at_most: float) -> float:
    """Returns `value` as a float, or raises unless it is in [0, at_most]."""
    expected = f"a number in [0, {at_most:g}]"
    return require_number(name, value, lambda x: 0 <= x <= at_most, expected)


def require_share(name: str, value: Any) -> float:
    """Returns `value` as a float, or raises unless it is in (0, 1)."""
    return require_number(name, value, lambda x: 0 < x < 1, "a number in (0, 1)")


def require_integer(name: str, value: Any, at_least: int, at_most: int | None = None) -> int:
    """Returns `value` as an integer, or raises unless it is one in range."""
    integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    within = integer and value >= at_least and (at_most is None or value <= at_most)
    bounds = f"of at least {at_least}" if at_most is None else f"in [{at_least}, {at_most}]"
    require(within, name, value, f"an integer {bounds}")
    return int(value)


def require_bool(name: str, value: Any) -> bool:
    """Returns `value`, or raises unless it is a bool."""
    require(isinstance(value, bool), name, value, "a bool")
    return bool(value)


def require_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Returns `value`, or raises unless it is one of several texts."""
    *others, last = map(repr, choices := tuple(choices))
    expected = f"{', '.join(others)} or {last}" if others else last
    require(isinstance(value, str) and value in choices, name, value, expected)
    return str(value)
