"""The kinds of rules: what a layer can do to channels.

A rule answers two questions about a layer. `trace`: which channel groups come out, given those that
go in? `narrow`: what does the layer look like when some channels are gone?
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from keras_branch_prune.channels import Kept, Layout, Layouts
from keras_branch_prune.graph import Call, Deferred, Unit, Value, as_array

Traced = Layout | Sequence[Layout | None] | None
"""The layout of the first output, or of every output."""


class Tracker(Protocol):
    """What a rule may tell the analysis (see `groups.py`)."""

    def produce(self, unit: Unit, axis: int, channels: int) -> Layout:
        """Returns the layout of the channel group that `unit` produces."""

    def fixed(self, axis: int, channels: int | None) -> Layout:
        """Returns the layout of channels that cannot be pruned."""

    def tie(self, layouts: Layouts, where: str) -> None:
        """Gives all layouts the same widths; if that is impossible, fixes them."""

    def tie_calls(self, unit: Unit, role: str, layout: Layout | None) -> None:
        """Ties `layout` to those of the unit's other calls, which share its weights."""

    def cut(self, layout: Layout, start: int, stop: int, where: str) -> Layout | None:
        """Returns the layout of a run of the channels, which is pruned for itself."""

    def unfold(self, layout: Layout, positions: int, where: str) -> Layout | None:
        """Returns the layout of the channels at one of the positions that an axis consists of."""

    def fix(self, layout: Layout | None, reason: str) -> None:
        """Keeps all groups of `layout` at their width."""

    def consume(self, value: Value, unit: Unit, role: str, groups: int = 1) -> None:
        """Notes that `unit` reads `value` linearly, by the kernel of that role, in groups."""

    def partition(self, layout: Layout, parts: int) -> None:
        """Makes every one of `parts` equal runs of channels keep the same number of them."""


class Rule(Protocol):
    """What one kind of layer does to channels; `register_rule` says what else a rule may know."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Traced:
        """Returns the layout of the call's output."""

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit for inputs narrowed to `kept`; `layout` is that of the first input."""


def fix_all(layouts: Layouts, tracker: Tracker, reason: str) -> None:
    """Keeps the groups of all layouts at their width."""
    for layout in layouts:
        tracker.fix(layout, reason)


def described(unit: Unit) -> str:
    """Returns name and class of a layer, for messages."""
    return f"'{unit.name}' ({unit.cls.__name__})"


@dataclasses.dataclass(frozen=True)
class Barrier:
    """A layer whose channels cannot be followed: what goes in keeps its width."""

    reason: str = "has no rule"

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> None:
        """Fixes all inputs."""
        fix_all(layouts, tracker, f"{described(call.unit)} {self.reason}")

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Never called: the inputs of a barrier are never narrowed."""
        raise AssertionError(f"{described(unit)} is a barrier and cannot be narrowed")


class Weightless:
    """What rules of layers without weights or sizes share: the narrow layer is the layer itself."""

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit itself."""
        return unit


def channel_axis(unit: Unit, value: Value) -> int:
    """Returns the channel axis that a layer's `data_format` means for a tensor."""
    first = unit.config.get("data_format") == "channels_first"
    return 1 if first else len(value.shape) - 1


def positions(call: Call, value: Value, *axes: int) -> int:
    """Returns the number of positions in a tensor of one sample, along all axes but these.

    Raises:
        ValueError: If one of the dimensions is open.
    """
    dims = [dim for axis, dim in enumerate(value.shape) if axis not in (0, *axes)]
    if None in dims:
        raise ValueError(
            f"The MACs of layer '{call.unit.name}' depend on an open dimension. Received: a tensor "
            f"of shape {value.shape}; pass `input_shape=`, the shape of one sample without the "
            "batch dimension."
        )
    return math.prod(dim for dim in dims if dim is not None)


def has_bias(unit: Unit) -> bool:
    """Whether a layer whose first weight is a kernel has a bias behind it."""
    return bool(unit.config.get("use_bias", len(unit.weights) > 1))


def with_bias(unit: Unit, width: int) -> Unit | None:
    """Returns a layer of a kernel and perhaps a bias with a bias, of zeros where it has none.

    Returns `None` if the layer has other weights, or its config does not say `use_bias`.
    """
    if len(unit.weights) != 1 + has_bias(unit):
        return None
    if has_bias(unit):
        return unit
    return add_bias(unit, (width,), {"use_bias": True}) if "use_bias" in unit.config else None


def add_bias(unit: Unit, shape: tuple[int, ...], config: Mapping[str, Any]) -> Unit:
    """Returns a layer of one kernel with a bias of zeros, which this config asks for."""
    (kernel,) = unit.weights
    zeros = Deferred(shape, lambda: np.zeros(shape, as_array(kernel).dtype))
    return unit.replace(config=config, weights=(kernel, zeros))


def shifts_evenly(unit: Unit, transposed: bool = False) -> bool:
    """Whether a constant added to an input channel adds one constant to all of an output channel.

    Not where a convolution adds zeros at the border, nor where a transposed one adds up more values
    at some positions than at others.
    """
    config = unit.config
    if config.get("padding") == "valid" and not transposed:
        return True
    single = set(np.ravel(config.get("kernel_size", 0))) == {1}
    return single and (not transposed or set(np.ravel(config.get("strides", 0))) == {1})
