"""What each Keras layer does to channels: one table of exact types, and the kinds of rules in it.

A rule answers two questions about a layer. `trace`: which channel groups come out, given those that
go in? `narrow`: what does the layer look like when some channels are gone? A type that is not in
the table is a barrier: the groups it touches keep their width. Nothing is guessed, and subclasses
of a known type do not inherit its rule.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import keras
import numpy as np

from keras_branch_prune.canonical import Call, Unit, Value
from keras_branch_prune.layouts import Block, Kept, Layout, side_by_side
from keras_branch_prune.linear import LinearSpec, has_plain_weights

Layouts = Sequence[Layout | None]
"""One layout per input tensor; `None` where the channels are not tracked, and thus fixed."""


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

    def fix(self, layout: Layout | None, reason: str) -> None:
        """Keeps all groups of `layout` at their width."""

    def consume(self, value: Value, unit: Unit) -> None:
        """Notes that `unit` is a linear consumer of `value`."""


class Rule(Protocol):
    """What one kind of layer does to channels."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Returns the layout of the call's output."""

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit for inputs narrowed to `kept`; `layout` is that of the first input."""


def _fix_all(layouts: Layouts, tracker: Tracker, reason: str) -> None:
    for layout in layouts:
        tracker.fix(layout, reason)


def _described(unit: Unit) -> str:
    return f"'{unit.name}' ({unit.cls.__name__})"


@dataclasses.dataclass(frozen=True)
class Barrier:
    """A layer whose channels cannot be followed: what goes in keeps its width."""

    reason: str = "has no rule"

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> None:
        """Fixes all inputs."""
        _fix_all(layouts, tracker, f"{_described(call.unit)} {self.reason}")

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Never called: the inputs of a barrier are never narrowed."""
        raise AssertionError(f"{_described(unit)} is a barrier and cannot be narrowed")


@dataclasses.dataclass(frozen=True)
class LinearMap:
    """A layer that mixes channels linearly: consumer of one group, producer of another.

    Args:
        spec: Where the layer keeps its channels.
        spatial: Whether the channel axis is given by `data_format`; else it is the last axis.
    """

    spec: LinearSpec
    spatial: bool = True

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Ends the input's groups at this consumer and begins the producer's."""
        unit = call.unit
        (layout,) = layouts
        (output,) = call.outputs
        reason = self._barrier_reason(unit)
        if reason:
            tracker.fix(layout, f"{_described(unit)} {reason}")
            return None
        axis = _channel_axis(unit, output) if self.spatial else len(output.shape) - 1
        if layout is not None and layout.axis != axis:
            tracker.fix(layout, f"{_described(unit)} reads another axis than the channels")
            layout = None
        tracker.tie_calls(unit, "input", layout)
        tracker.consume(call.inputs[0], unit)
        return tracker.produce(unit, axis, unit.config[self.spec.width_key])

    @staticmethod
    def _barrier_reason(unit: Unit) -> str | None:
        if unit.config.get("groups", 1) != 1:
            return "is a grouped convolution, which has no rule yet"
        if not has_plain_weights(unit):
            return "has more weights than a kernel and a bias"
        return None

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Never called: a linear map is narrowed by multiplication, see `linear.multiply`."""
        raise AssertionError(f"{_described(unit)} is a linear map and is not part of a region")


def _any_axis(unit: Unit, value: Value, layout: Layout) -> bool:
    return True


def _data_format_axis(unit: Unit, value: Value, layout: Layout) -> bool:
    return layout.axis == _channel_axis(unit, value)


def _config_axis(unit: Unit, value: Value, layout: Layout) -> bool:
    return layout.axis == unit.config["axis"] % len(value.shape)


def _elementwise_activation(unit: Unit, value: Value, layout: Layout) -> bool:
    activation = unit.config["activation"]
    return isinstance(activation, str) and activation in _ELEMENTWISE_ACTIVATIONS


def _plain_noise_shape(unit: Unit, value: Value, layout: Layout) -> bool:
    return unit.config.get("noise_shape") is None


_ELEMENTWISE_ACTIVATIONS = frozenset(
    (
        *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu"),
        *("hard_swish", "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "mish", "relu"),
        *("relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus", "softsign"),
        *("sparse_plus", "sparse_sigmoid", "squareplus", "swish", "tanh", "tanh_shrink"),
        "threshold",
    )
)


@dataclasses.dataclass(frozen=True)
class Channelwise:
    """A layer with one input that treats every channel alone and keeps their order.

    Args:
        applies: Whether a call is channelwise, given the unit, its input and the input's layout.
        weight_axis: Maps the channel axis of the input to that of the weights; a weight of size 1
            along it is shared by all channels.
        drops_positions: Whether all axes but batch and channels may go (global pooling).
        otherwise: The barrier's reason where `applies` says no.
    """

    applies: Callable[[Unit, Value, Layout], bool] = _any_axis
    weight_axis: Callable[[int], int] = lambda axis: 0
    drops_positions: bool = False
    otherwise: str = "works along another axis than the channels"

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Hands the input's layout on."""
        layout, *others = layouts
        if layout is None:
            return None
        if others or not self.applies(call.unit, call.inputs[0], layout):
            _fix_all(layouts, tracker, f"{_described(call.unit)} {self.otherwise}")
            return None
        if call.unit.weights:
            tracker.tie_calls(call.unit, "input", layout)
        dropped = self.drops_positions and not call.unit.config["keepdims"]
        return dataclasses.replace(layout, axis=1) if dropped else layout

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Takes the kept channels of every weight that has one entry per channel."""
        if not unit.weights:
            return unit
        axis, indices = self.weight_axis(layout.axis), layout.kept(kept)
        weights = [w if w.shape[axis] == 1 else w.take(indices, axis) for w in unit.arrays()]
        return unit.replace(weights=tuple(weights))


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """A merge of several tensors channel by channel (add, multiply …): ties their groups."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Ties all inputs but those that broadcast a single channel."""
        known = [layout for layout in layouts if layout is not None]
        if not known:
            return None
        where = _described(call.unit)
        axes = {layout.axis for layout in known}
        ranks = {len(value.shape) for value in call.inputs}
        if len(axes) > 1 or len(ranks) > 1:
            _fix_all(layouts, tracker, f"{where} merges tensors of different ranks or axes")
            return None
        (axis,) = axes
        channels = call.outputs[0].shape[axis]
        tied = [
            layout
            for layout, value in zip(layouts, call.inputs, strict=True)
            if value.shape[axis] == channels
        ]
        tracker.tie(tied, where)
        return next((layout for layout in tied if layout is not None), None)

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit itself: it has no weights."""
        return unit


@dataclasses.dataclass(frozen=True)
class Concatenation:
    """Lays groups side by side along the channel axis, or ties them along another one."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Returns the layout of the concatenated tensor."""
        known = [layout for layout in layouts if layout is not None]
        if not known:
            return None
        where = _described(call.unit)
        axes = {layout.axis for layout in known}
        if len(axes) > 1:
            _fix_all(layouts, tracker, f"{where} merges tensors of different channel axes")
            return None
        (axis,) = axes
        if call.unit.config["axis"] % len(call.outputs[0].shape) != axis:
            tracker.tie(layouts, where)
            return known[0] if len(known) == len(layouts) else None
        parts = [
            layout or tracker.fixed(axis, value.shape[axis])
            for layout, value in zip(layouts, call.inputs, strict=True)
        ]
        return side_by_side(axis, parts)

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit itself: it has no weights."""
        return unit


@dataclasses.dataclass(frozen=True)
class Flattening:
    """Flatten: the channels repeat for every position. Keras brings them last before flattening."""

    def trace(self, call: Call, layouts: Layouts, tracker: Tracker) -> Layout | None:
        """Returns the layout with the positions counted in."""
        (layout,) = layouts
        (value,) = call.inputs
        if layout is None or len(value.shape) == 2:
            return layout
        if layout.axis != _channel_axis(call.unit, value):
            tracker.fix(layout, f"{_described(call.unit)} has another data_format than its input")
            return None
        sizes = [size for axis, size in enumerate(value.shape) if axis not in (0, layout.axis)]
        spatial = [size for size in sizes if size is not None]
        if len(spatial) < len(sizes) or len(layout.blocks) != 1 or layout.blocks[0].positions != 1:
            tracker.fix(layout, f"{_described(call.unit)} needs a static shape to be followed")
            return None
        block = Block(math.prod(spatial), layout.blocks[0].segments)
        return Layout(1, (block,))

    def narrow(self, unit: Unit, layout: Layout, kept: Kept) -> Unit:
        """Returns the unit itself: it has no weights."""
        return unit


def _channel_axis(unit: Unit, value: Value) -> int:
    first = unit.config.get("data_format") == "channels_first"
    return 1 if first else len(value.shape) - 1


_layers = keras.layers
_conv = LinearMap(LinearSpec("filters", input_axis=-2, output_axis=-1))
_conv_transpose = LinearMap(LinearSpec("filters", input_axis=-1, output_axis=-2))
_elementwise = Channelwise()
_spatial = Channelwise(_data_format_axis)
_global_pooling = Channelwise(_data_format_axis, drops_positions=True)
_softmax = Barrier("mixes the channels")
_moves_channels = Barrier("may move channels to another axis")

_RULES: dict[type, Rule] = {
    _layers.Dense: LinearMap(LinearSpec("units", input_axis=0, output_axis=1), spatial=False),
    **dict.fromkeys([_layers.Conv1D, _layers.Conv2D, _layers.Conv3D], _conv),
    **dict.fromkeys(
        [_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose], _conv_transpose
    ),
    _layers.BatchNormalization: Channelwise(_config_axis),
    _layers.Activation: Channelwise(
        _elementwise_activation, otherwise="may mix channels: its activation is not elementwise"
    ),
    _layers.PReLU: Channelwise(weight_axis=lambda axis: axis - 1),
    **dict.fromkeys(
        [
            _layers.ReLU,
            _layers.LeakyReLU,
            _layers.ELU,
            _layers.ActivityRegularization,
            _layers.AlphaDropout,
            _layers.GaussianDropout,
            _layers.GaussianNoise,
            _layers.Identity,
        ],
        _elementwise,
    ),
    _layers.Dropout: Channelwise(_plain_noise_shape, otherwise="has a noise_shape of its own"),
    **dict.fromkeys(
        [
            _layers.MaxPooling1D,
            _layers.MaxPooling2D,
            _layers.MaxPooling3D,
            _layers.AveragePooling1D,
            _layers.AveragePooling2D,
            _layers.AveragePooling3D,
            _layers.SpatialDropout1D,
            _layers.SpatialDropout2D,
            _layers.SpatialDropout3D,
            _layers.ZeroPadding1D,
            _layers.ZeroPadding2D,
            _layers.ZeroPadding3D,
            _layers.Cropping1D,
            _layers.Cropping2D,
            _layers.Cropping3D,
            _layers.UpSampling1D,
            _layers.UpSampling2D,
            _layers.UpSampling3D,
        ],
        _spatial,
    ),
    **dict.fromkeys(
        [
            _layers.GlobalMaxPooling1D,
            _layers.GlobalMaxPooling2D,
            _layers.GlobalMaxPooling3D,
            _layers.GlobalAveragePooling1D,
            _layers.GlobalAveragePooling2D,
            _layers.GlobalAveragePooling3D,
        ],
        _global_pooling,
    ),
    **dict.fromkeys(
        [
            _layers.Add,
            _layers.Subtract,
            _layers.Multiply,
            _layers.Average,
            _layers.Maximum,
            _layers.Minimum,
        ],
        Elementwise(),
    ),
    _layers.Concatenate: Concatenation(),
    _layers.Flatten: Flattening(),
    _layers.Softmax: _softmax,
    _layers.Reshape: _moves_channels,
    _layers.Permute: _moves_channels,
}


def rule_for(unit: Unit) -> Rule:
    """Returns the rule of the unit's exact class; a class without one is a barrier."""
    return _RULES.get(unit.cls, Barrier())


def register_rule(cls: type, rule: Rule) -> None:
    """Registers the rule of a layer class of your own, or replaces a built-in one.

    Args:
        cls: The exact layer class; subclasses need their own entry.
        rule: A `Channelwise`, `Elementwise`, `LinearMap`, … or an object with their methods.

    Raises:
        TypeError: If `cls` is not a class or `rule` has no `trace` and `narrow`.
    """
    if not isinstance(cls, type):
        raise TypeError(f"`cls` must be a layer class. Received: {cls!r}")
    if not callable(getattr(rule, "trace", None)) or not callable(getattr(rule, "narrow", None)):
        raise TypeError(f"`rule` must have the methods `trace` and `narrow`. Received: {rule!r}")
    _RULES[cls] = rule


def output_kernel(unit: Unit) -> np.ndarray:
    """Returns the kernel of a linear unit as a matrix `(everything else, output channels)`."""
    rule = rule_for(unit)
    assert isinstance(rule, LinearMap)
    kernel = np.moveaxis(unit.arrays()[0], rule.spec.output_axis, -1)
    return kernel.reshape(-1, kernel.shape[-1])
