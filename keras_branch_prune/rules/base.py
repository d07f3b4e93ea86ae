"""What a rule is, and what rules share.

A rule answers two questions about a layer. `trace`: which channels are in its output, given those
in its inputs? `narrow`: how is the layer called when some channels are gone?
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from keras_branch_prune.channels import ChannelMatrices, ChannelTracker, Kept, Layout, Layouts
from keras_branch_prune.graph import Call, Deferred, Unit, Value, as_array, has_fused_activation

Traced = Layout | Sequence[Layout | None] | None
"""The layout of the first output, or one per output; outputs without one are not tracked."""


class Rule(Protocol):
    """What one kind of layer does to channels; `register_rule` says what else a rule may know."""

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Traced:
        """Returns the layout of the call's output."""

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Returns the call of the narrow layer, such as `call.replace_unit(weights=…)`.

        Args:
            call: The call on the original tensors. These stay in it (`analysis/narrowing.py` puts
                the narrow ones in their place); other arguments may change, as those of slices do.
            layout: Layout of its first input of which channels go.
            kept: The channels that stay.
        """


def keep_all_whole(layouts: Layouts, tracker: ChannelTracker, reason: str) -> None:
    """Keeps the groups of all layouts at their width."""
    for layout in layouts:
        tracker.keep_whole(layout, reason)


def describe(unit: Unit) -> str:
    """Returns name and class of a layer for messages, such as `'conv1' (Conv2D)`."""
    return f"'{unit.name}' ({unit.cls.__name__})"


@dataclasses.dataclass(frozen=True)
class Barrier:
    """A layer whose channels cannot be followed: what goes in keeps its width."""

    reason: str = "has no rule"

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> None:
        """Keeps all inputs whole."""
        keep_all_whole(layouts, tracker, f"{describe(call.unit)} {self.reason}")

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Never called: the inputs of a barrier are never narrowed."""
        raise AssertionError(f"{describe(call.unit)} is a barrier and cannot be narrowed")


class Weightless:
    """A layer whose config and weights do not depend on the number of channels."""

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Returns the call itself."""
        return call


def channel_axis(unit: Unit, value: Value) -> int:
    """Returns the channel axis of a tensor by a layer's `data_format`; the last without one."""
    first = unit.config.get("data_format") == "channels_first"
    return 1 if first else len(value.shape) - 1


def positions(call: Call, value: Value, *axes: int) -> int:
    """Returns the number of positions in a tensor of one sample: the product of all other axes.

    Of `(batch, 8, 8, 16)` with `axes` = 3 they are 64.

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


def add_bias(unit: Unit, shape: tuple[int, ...], config: Mapping[str, Any]) -> Unit:
    """Returns a layer of one kernel with a bias of zeros of this shape, and the config changed."""
    (kernel,) = unit.weights
    zeros = Deferred(shape, lambda: np.zeros(shape, as_array(kernel).dtype))
    return unit.replace(config=config, weights=(kernel, zeros))


class Folding(abc.ABC):
    """Layers of a kernel and perhaps a bias, into which BatchNormalization can be folded.

    At inference BatchNormalization is scale · x + shift per channel, a diagonal map. Before such a
    layer it is multiplied in as an expand map, behind it as a reduce map.
    """

    transposed: bool = False

    @abc.abstractmethod
    def multiply(
        self, unit: Unit, expands: Mapping[str, ChannelMatrices], reduce: ChannelMatrices | None
    ) -> Unit:
        """Returns `reduce ∘ unit ∘ expands["input"]` as one layer, for diagonal maps at least."""

    def channel_axes(self, call: Call) -> tuple[int, int]:
        """Returns the channel axes of the input and the output."""
        before, after = call.inputs[0], call.outputs[0]
        return channel_axis(call.unit, before), channel_axis(call.unit, after)

    def with_bias(self, call: Call) -> Unit | None:
        """Returns the unit with a bias, of zeros if it has none; `None` if it cannot have one."""
        unit, width = call.unit, call.outputs[0].shape[self.channel_axes(call)[1]]
        if len(unit.weights) != 1 + has_bias(unit):
            return None
        if has_bias(unit):
            return unit
        if width is None or "use_bias" not in unit.config:
            return None
        return add_bias(unit, (width,), {"use_bias": True})

    def shifts_evenly(self, unit: Unit) -> bool:
        """Whether a constant added to an input channel adds the same at all output positions.

        It does not where a convolution pads with zeros, as kernels at the border see less of it,
        nor where the results of a transposed convolution overlap more at some positions.
        """
        config = unit.config
        if config.get("padding") == "valid" and not self.transposed:
            return True
        # A kernel of one pixel sees no border; with strides a transposed one leaves gaps.
        single = set(np.ravel(config.get("kernel_size", 0))) == {1}
        return single and (not self.transposed or set(np.ravel(config.get("strides", 0))) == {1})

    def fold_input(
        self, call: Call, axis: int, scale: np.ndarray, shift: np.ndarray
    ) -> Unit | None:
        """Returns the unit with scale · x + shift multiplied in before it.

        Args:
            call: A call that reads one tensor.
            axis: Axis of these channels.
            scale: One factor per channel, float64.
            shift: One summand per channel, float64.

        Returns:
            The unit; `None` if no layer of this class computes exactly that.
        """
        unit = self.with_bias(call)
        if unit is None or axis != self.channel_axes(call)[0]:
            return None
        if shift.any() and not self.shifts_evenly(unit):
            return None
        return self.multiply(unit, {"input": ChannelMatrices.diagonal(scale, shift)}, None)

    def fold_output(
        self, call: Call, axis: int, scale: np.ndarray, shift: np.ndarray
    ) -> Unit | None:
        """Returns the unit with scale · y + shift multiplied in behind it; see `fold_input`."""
        unit = self.with_bias(call)
        # A fused activation lies between the kernel and the map.
        if unit is None or has_fused_activation(unit) or axis != self.channel_axes(call)[1]:
            return None
        return self.multiply(unit, {}, ChannelMatrices.diagonal(scale, shift))
