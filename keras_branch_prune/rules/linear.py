"""The rules of layers that mix channels linearly: they consume one group and produce another."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from keras_branch_prune.channels import (
    ChannelMatrices,
    ChannelTracker,
    Kept,
    Layout,
    Layouts,
    multiply_weights,
)
from keras_branch_prune.graph import Call, Unit, Value
from keras_branch_prune.rules.base import (
    Barrier,
    Folding,
    channel_axis,
    describe,
    has_bias,
    positions,
)

Expands = Mapping[str, ChannelMatrices]
"""Role of an input, such as `"input"` or `"query"` → the map k → C before it."""


class LinearRule(abc.ABC):
    """A layer whose output is linear in one kernel, and which reads its inputs through kernels.

    What happens in between need not be linear, as in attention: maps are multiplied into the first
    and the last kernel only.
    """

    @abc.abstractmethod
    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Notes the layer as consumer of what it reads; returns the layout that it produces."""

    @abc.abstractmethod
    def inputs(self, call: Call) -> dict[str, Value]:
        """Returns the tensors that are read through kernels, by role."""

    @abc.abstractmethod
    def multiply(self, unit: Unit, expands: Expands, reduce: ChannelMatrices | None) -> Unit:
        """Returns `reduce ∘ unit ∘ expands` as one layer, multiplied in float64."""

    @abc.abstractmethod
    def output_kernel(self, unit: Unit) -> np.ndarray:
        """Returns the kernel that makes the output, as `(everything else, output channels)`."""

    def has_bias(self, unit: Unit) -> bool:
        """Whether a bias is added to the output channels."""
        return has_bias(unit)

    def conv_groups(self, unit: Unit) -> int:
        """Returns the number of equal runs of output channels that a reduce map must not mix."""
        return 1

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Never called: a linear layer is narrowed by `multiply`."""
        raise AssertionError(f"{describe(call.unit)} is linear and not part of a region")


@dataclasses.dataclass(frozen=True)
class LinearMap(Folding, LinearRule):
    """Dense layers and convolutions, grouped ones too: a kernel and perhaps a bias.

    The kernel is the first weight, the bias the second. A layer without bias whose config has the
    key `use_bias` is given one on export, where BatchNormalization is folded into it. The MACs are
    the size of the kernel times the positions of the output. Where a convolution adds zeros is read
    from `padding` and `kernel_size` in its config.

    Args:
        width_key: Config key of the number of output channels.
        input_axis: Axis of the input channels in the kernel.
        output_axis: Axis of the output channels in the kernel.
        spatial: Whether the channel axis is given by `data_format`; else it is the last axis.
        transposed: Whether the kernel is applied at every position of the input instead, and the
            results that overlap are summed, as by `Conv2DTranspose`.
        activation_key: Config key of an activation that is applied last, and that `"linear"` turns
            off; `None` if there is none.
    """

    width_key: str
    input_axis: int
    output_axis: int
    spatial: bool = True
    transposed: bool = False
    activation_key: str | None = "activation"

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Notes the layer as consumer of its input; returns the layout that it produces."""
        unit, (layout,), (output,) = call.unit, layouts, call.outputs
        # LoRA and quantization add weights, with which a layer is more than one kernel.
        if len(unit.weights) != 1 + self.has_bias(unit):
            reason = f"{describe(unit)} has more weights than a kernel and a bias"
            tracker.keep_whole(layout, reason)
            return None
        axis = self._axis(unit, output)
        layout = self._readable(unit, layout, axis, tracker)
        conv_groups = self.conv_groups(unit)
        tracker.tie_calls(unit, "input", layout)
        tracker.consume(call.inputs[0], unit, "input", conv_groups)
        produced = self._produce(unit, axis, tracker)
        # The groups of a convolution have equally many channels, before it and behind it.
        if conv_groups > 1:
            tracker.partition(produced, conv_groups)
            if layout is not None:
                tracker.partition(layout, conv_groups)
        return produced

    def _produce(self, unit: Unit, axis: int, tracker: ChannelTracker) -> Layout:
        return tracker.produce(unit, axis, unit.config[self.width_key])

    def _readable(
        self, unit: Unit, layout: Layout | None, axis: int, tracker: ChannelTracker
    ) -> Layout | None:
        """Returns the layout if the kernel reads its channels, else keeps them whole."""
        reason = None
        if layout is not None and layout.axis != axis:
            reason = "reads another axis than the channels"
        # The ends of several channel groups need not be those of the convolution's groups.
        elif layout is not None and self.conv_groups(unit) > 1 and not layout.single_segment():
            reason = "is a grouped convolution of several groups of channels"
        if reason is None:
            return layout
        tracker.keep_whole(layout, f"{describe(unit)} {reason}")
        return None

    def inputs(self, call: Call) -> dict[str, Value]:
        """Returns the one input."""
        return {"input": call.inputs[0]}

    def multiply(self, unit: Unit, expands: Expands, reduce: ChannelMatrices | None) -> Unit:
        """Returns `reduce ∘ unit ∘ expand` as one layer, multiplied when its weights are set."""
        axes, conv_groups = (self.input_axis, self.output_axis), self.conv_groups(unit)
        weights = multiply_weights(unit.weights, axes, expands.get("input"), reduce, conv_groups)
        width = weights[0].shape[self.output_axis]
        return unit.replace(config={self.width_key: width}, weights=weights)

    def output_kernel(self, unit: Unit) -> np.ndarray:
        """Returns the kernel as `(everything else, output channels)`."""
        return _as_matrix(unit.arrays()[0], self.output_axis)

    def conv_groups(self, unit: Unit) -> int:
        """Returns the number of groups of the convolution."""
        return int(unit.config.get("groups", 1))

    def is_depthwise(self, unit: Unit) -> bool:
        """Whether every group of the convolution reads a single channel."""
        return self.conv_groups(unit) > 1 and unit.weights[0].shape[self.input_axis] == 1

    def macs(self, call: Call) -> int | None:
        """Returns the size of the kernel times the positions at which it is applied."""
        unit, value = call.unit, call.inputs[0] if self.transposed else call.outputs[0]
        if len(unit.weights) != 1 + self.has_bias(unit):
            return None
        kernel = unit.weights[0]
        return positions(call, value, self._axis(unit, value)) * math.prod(kernel.shape)

    def channel_axes(self, call: Call) -> tuple[int, int]:
        """Returns the channel axes of the input and the output."""
        return self._axis(call.unit, call.inputs[0]), self._axis(call.unit, call.outputs[0])

    def _axis(self, unit: Unit, value: Value) -> int:
        return channel_axis(unit, value) if self.spatial else len(value.shape) - 1

    def shifts_evenly(self, unit: Unit) -> bool:
        """See `Folding.shifts_evenly`; dense layers always do."""
        return not self.spatial or super().shifts_evenly(unit)


@dataclasses.dataclass(frozen=True)
class EmbeddingMap(LinearRule):
    """Embedding: reads integers, produces the channels of its table."""

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Returns the layout of the table's channels."""
        if len(call.unit.weights) != 1:
            return None
        axis = len(call.outputs[0].shape) - 1
        return tracker.produce(call.unit, axis, call.unit.config["output_dim"])

    def inputs(self, call: Call) -> dict[str, Value]:
        """Returns nothing: integers are not channels."""
        return {}

    def has_bias(self, unit: Unit) -> bool:
        """An embedding has no bias."""
        return False

    def multiply(self, unit: Unit, expands: Expands, reduce: ChannelMatrices | None) -> Unit:
        """Returns the embedding with its table mapped, multiplied when its weights are set."""
        (table,) = multiply_weights(unit.weights, (0, 1), None, reduce)
        return unit.replace(config={"output_dim": table.shape[1]}, weights=(table,))

    def output_kernel(self, unit: Unit) -> np.ndarray:
        """Returns the table `(tokens, channels)`."""
        return unit.arrays()[0]

    def macs(self, call: Call) -> int | None:
        """A look-up multiplies nothing."""
        return 0 if len(call.unit.weights) == 1 else None


@dataclasses.dataclass(frozen=True)
class ChannelMapRule(Barrier):
    """A reduce or expand map of a branched model: a barrier, as a model is branched only once."""

    def macs(self, call: Call) -> int:
        """Returns the sizes of all matrices, each times its positions and those of the output."""
        (output,), config = call.outputs, call.unit.config
        per_position = sum(math.prod(block) for block in config["blocks"])
        return positions(call, output, config["axis"] % len(output.shape)) * per_position


def _as_matrix(kernel: np.ndarray, axis: int) -> np.ndarray:
    kernel = np.moveaxis(kernel, axis, -1)
    return kernel.reshape(-1, kernel.shape[-1])
