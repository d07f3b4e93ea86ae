"""The rule of `EinsumDense` layers whose equation maps one channel axis to another."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

from keras_branch_prune.channels import (
    ChannelMatrices,
    ChannelTracker,
    Layout,
    Layouts,
    multiply_weights,
)
from keras_branch_prune.graph import Call, Unit, Value
from keras_branch_prune.rules.base import Folding, add_bias, describe, positions
from keras_branch_prune.rules.linear import Expands, LinearRule


@dataclasses.dataclass(frozen=True)
class _ChannelEquation:
    """An equation such as `abc,cd->abd`: one letter contracted, one produced, the others stay.

    Args:
        input_axis: Axis of the contracted letter in the input, counted from the end.
        output_axis: Axis of the produced letter in the output, counted from the end.
        kernel_input_axis: Axis of the contracted letter in the kernel.
    """

    input_axis: int
    output_axis: int
    kernel_input_axis: int

    @property
    def kernel_output_axis(self) -> int:
        """Axis of the produced letter in the kernel."""
        return 1 - self.kernel_input_axis

    @classmethod
    def parse(cls, unit: Unit) -> _ChannelEquation | None:
        """Reads the equation of a layer; `None` if it does not map one channel axis to another."""
        equation = re.sub(r"\s", "", unit.config["equation"])
        match = re.fullmatch(r"(\.\.\.)?(\w+),(\w\w)->(\.\.\.)?(\w+)", equation)
        if match is None or match[1] != match[4]:
            return None
        inputs, kernel, outputs = match[2], match[3], match[5]
        contracted = [letter for letter in kernel if letter not in outputs]
        produced = [letter for letter in kernel if letter not in inputs]
        others = [letter for letter in inputs if letter not in kernel]
        # One letter of the kernel is summed over, the other is new. In "abc,bc->ab" b is neither.
        if len(contracted) != 1 or len(produced) != 1 or contracted[0] not in inputs:
            return None
        plain = len(set(inputs)) == len(inputs) and len(set(outputs)) == len(outputs)
        # Else positions move, as in "abc,cd->bad", or a diagonal is read, as in "aac,cd->ad".
        if not plain or [letter for letter in outputs if letter not in kernel] != others:
            return None
        # Without an ellipsis the first letter is the batch, whose samples must not be mixed.
        if match[1] is None and (inputs[0] in kernel or outputs[0] in kernel):
            return None
        if unit.config["bias_axes"] not in (None, produced[0]):
            return None
        return cls(
            inputs.index(contracted[0]) - len(inputs),
            outputs.index(produced[0]) - len(outputs),
            kernel.index(contracted[0]),
        )


@dataclasses.dataclass(frozen=True)
class EinsumMap(Folding, LinearRule):
    """`EinsumDense` where its equation is a channel map; any other equation is a barrier."""

    activation_key = "activation"

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Notes the layer as consumer of its input; returns the layout that it produces."""
        unit, (layout,), (value,), (output,) = call.unit, layouts, call.inputs, call.outputs
        equation, reason = _ChannelEquation.parse(unit), None
        if equation is None:
            reason = f"has an equation that is no channel map, {unit.config['equation']!r}"
        elif len(unit.weights) != 1 + self.has_bias(unit):
            reason = "has more weights than a kernel and a bias"
        if equation is None or reason is not None:
            tracker.keep_whole(layout, f"{describe(unit)} {reason}")
            return None
        if layout is not None and layout.axis != equation.input_axis + len(value.shape):
            tracker.keep_whole(layout, f"{describe(unit)} reads another axis than the channels")
            layout = None
        tracker.tie_calls(unit, "input", layout)
        tracker.consume(value, unit, "input")
        channels = unit.weights[0].shape[equation.kernel_output_axis]
        return tracker.produce(unit, equation.output_axis + len(output.shape), channels)

    def inputs(self, call: Call) -> dict[str, Value]:
        """Returns the one input."""
        return {"input": call.inputs[0]}

    def has_bias(self, unit: Unit) -> bool:
        """Whether the layer adds a bias."""
        return unit.config["bias_axes"] is not None

    def multiply(self, unit: Unit, expands: Expands, reduce: ChannelMatrices | None) -> Unit:
        """Returns `reduce ∘ unit ∘ expand` as one layer, multiplied when its weights are set."""
        equation = _ChannelEquation.parse(unit)
        if equation is None:
            return unit
        axes = (equation.kernel_input_axis, equation.kernel_output_axis)
        weights = multiply_weights(unit.weights, axes, expands.get("input"), reduce)
        shape = list(unit.config["output_shape"])
        shape[equation.output_axis] = weights[0].shape[equation.kernel_output_axis]
        return unit.replace(config={"output_shape": tuple(shape)}, weights=weights)

    def output_kernel(self, unit: Unit) -> np.ndarray:
        """Returns the kernel as `(input channels, output channels)`."""
        equation = _ChannelEquation.parse(unit)
        assert equation is not None
        return np.moveaxis(unit.arrays()[0], equation.kernel_output_axis, -1)

    def macs(self, call: Call) -> int | None:
        """Returns the values of the output times the terms that each sums, for any equation."""
        unit, (output,) = call.unit, call.outputs
        if len(unit.weights) != 1 + self.has_bias(unit):
            return None
        operands, output_axes = unit.config["equation"].replace("...", "").split("->")
        axes = zip(operands.split(",")[1], unit.weights[0].shape, strict=True)
        summed = math.prod(size for axis, size in axes if axis not in output_axes)
        return positions(call, output) * summed

    def channel_axes(self, call: Call) -> tuple[int, int]:
        """Returns the channel axes of the input and the output."""
        equation = _ChannelEquation.parse(call.unit)
        assert equation is not None
        before, after = len(call.inputs[0].shape), len(call.outputs[0].shape)
        return equation.input_axis + before, equation.output_axis + after

    def with_bias(self, call: Call) -> Unit | None:
        """Returns the unit with a bias; `None` if it has other weights or another equation."""
        unit, equation = call.unit, _ChannelEquation.parse(call.unit)
        if equation is None or len(unit.weights) != 1 + self.has_bias(unit):
            return None
        if self.has_bias(unit):
            return unit
        letter = unit.config["equation"][equation.output_axis]
        width = unit.weights[0].shape[equation.kernel_output_axis]
        # Keras' bias has an axis of size 1 for every axis behind that of the channels.
        return add_bias(unit, (width, *(1,) * (-1 - equation.output_axis)), {"bias_axes": letter})

    def shifts_evenly(self, unit: Unit) -> bool:
        """The kernel is applied at every position alike."""
        return True
