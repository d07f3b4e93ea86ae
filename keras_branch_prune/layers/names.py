"""The names by which layers are known: to Keras, and in the pruned branch."""

from __future__ import annotations

import re

PACKAGE = "keras_branch_prune"
"""The package that the classes are registered with; `.keras` files name it, so it must stay."""

_NARROW = "__pruned"
# As in "conv__pruned_1/kernel": a number tells equal names apart, after a slash comes the variable.
_INSIDE_NARROW = re.compile(rf"{_NARROW}(_\d+)?(/|$)")


def narrow_name(name: str) -> str:
    """Returns the name of a layer's narrow copy in the pruned branch."""
    return name + _NARROW


def is_narrow(name: str) -> bool:
    """Whether a layer of this name belongs to the pruned branch."""
    return name.endswith(_NARROW)


def is_inside_narrow(path: str) -> bool:
    """Whether a variable of this path belongs to the pruned branch."""
    return _INSIDE_NARROW.search(path) is not None


def original_name(name: str) -> str:
    """Returns the name of the layer that a narrow one was made from; other names stay."""
    return name.removesuffix(_NARROW)
