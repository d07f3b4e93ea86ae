"""The table of rules: all that is known of each Keras layer, by exact class.

A class that is not in the table is a barrier: the groups it touches keep their width. Nothing is
guessed, and subclasses of a known class do not inherit its rule. What a rule says of channels is
asked of the rule itself; what it need not know (MACs, activation), of the functions here.
"""

from __future__ import annotations

import keras
import numpy as np

from keras_branch_prune.channels import Layout
from keras_branch_prune.graph import Call, Unit, Value, set_activation_lookup
from keras_branch_prune.layers import ChannelMap
from keras_branch_prune.rules.applications import application_rules
from keras_branch_prune.rules.attention import attention_rules
from keras_branch_prune.rules.base import Barrier, Rule, channel_axis
from keras_branch_prune.rules.channelwise import (
    Channelwise,
    Depthwise,
    GivenStatistics,
    GroupedDepthwise,
    GroupNorm,
)
from keras_branch_prune.rules.einsum import EinsumMap
from keras_branch_prune.rules.joining import Concatenation, Elementwise
from keras_branch_prune.rules.linear import ChannelMapRule, EmbeddingMap, LinearMap, LinearRule
from keras_branch_prune.rules.operations import operation_rules
from keras_branch_prune.rules.shapes import Flattening, Permutation, Reshaping
from keras_branch_prune.rules.slicing import slicing_rules

_TENSOR_PRODUCTS = frozenset(
    {
        *("AdditiveAttention", "Attention", "Dot", "DotProductAttention"),
        *("Einsum", "Inner", "Matmul", "Outer", "Tensordot", "Vdot"),
        *("Conv", "ConvTranspose", "DepthwiseConv", "SeparableConv"),
    }
)
"""Names of layers and `keras.ops` operations that multiply tensors with each other."""

_ELEMENTWISE_ACTIVATIONS = frozenset(
    (
        *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu"),
        *("hard_swish", "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "mish", "relu"),
        *("relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus", "softsign"),
        *("sparse_plus", "sparse_sigmoid", "squareplus", "swish", "tanh", "tanh_shrink"),
        "threshold",
    )
)

_layers = keras.layers

_conv = LinearMap("filters", input_axis=-2, output_axis=-1)

_conv_transpose = LinearMap("filters", input_axis=-1, output_axis=-2, transposed=True)

_elementwise = Channelwise()

_softmax = Barrier("mixes the channels")

_recurrent = Barrier("is recurrent")

_permutation = Permutation(lambda unit, rank: (0, *unit.config["dims"]))


def _data_format_axis(unit: Unit, value: Value, layout: Layout) -> bool:
    return layout.axis == channel_axis(unit, value)


def _config_axis(unit: Unit, value: Value, layout: Layout) -> bool:
    return layout.axis == unit.config["axis"] % len(value.shape)


def _elementwise_activation(unit: Unit, value: Value, layout: Layout) -> bool:
    activation = unit.config["activation"]
    return isinstance(activation, str) and activation in _ELEMENTWISE_ACTIVATIONS


def _only_channel_axis(unit: Unit, value: Value, layout: Layout) -> bool:
    """Whether a normalization works along the channels and nothing else."""
    axis = unit.config["axis"]
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    return [a % len(value.shape) for a in axes] == [layout.axis]


def _at_most_channel_axis(unit: Unit, value: Value, layout: Layout) -> bool:
    return not unit.config["axis"] or _only_channel_axis(unit, value, layout)


def _scalar_scale(unit: Unit, value: Value, layout: Layout) -> bool:
    return np.ndim(unit.config["scale"]) == np.ndim(unit.config["offset"]) == 0


def _noise_alike_for_channels(unit: Unit, value: Value, layout: Layout) -> bool:
    noise_shape = unit.config.get("noise_shape")
    return noise_shape is None or noise_shape[layout.axis] in (None, 1)


_spatial = Channelwise(_data_format_axis)
_global_pooling = Channelwise(_data_format_axis, drops_positions=True)
_along_channels = Channelwise(_only_channel_axis)

_RULES: dict[type, Rule] = {
    _layers.Dense: LinearMap("units", input_axis=0, output_axis=1, spatial=False),
    **dict.fromkeys([_layers.Conv1D, _layers.Conv2D, _layers.Conv3D], _conv),
    **dict.fromkeys(
        [_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose], _conv_transpose
    ),
    _layers.EinsumDense: EinsumMap(),
    _layers.Embedding: EmbeddingMap(),
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
    _layers.Dropout: Channelwise(
        _noise_alike_for_channels, otherwise="has a noise_shape of its own"
    ),
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
    _layers.Reshape: Reshaping(),
    _layers.Permute: _permutation,
    _layers.DepthwiseConv1D: Depthwise(),
    _layers.DepthwiseConv2D: Depthwise(),
    _layers.LayerNormalization: _along_channels,
    _layers.Normalization: GivenStatistics(_at_most_channel_axis),
    _layers.UnitNormalization: _along_channels,
    _layers.GroupNormalization: GroupNorm(),
    _layers.Rescaling: Channelwise(_scalar_scale, otherwise="has a scale for every channel"),
    _layers.Resizing: _spatial,
    **dict.fromkeys(
        [
            _layers.Bidirectional,
            _layers.ConvLSTM1D,
            _layers.ConvLSTM2D,
            _layers.ConvLSTM3D,
            _layers.GRU,
            _layers.LSTM,
            _layers.RNN,
            _layers.SimpleRNN,
        ],
        _recurrent,
    ),
    _layers.TimeDistributed: Barrier("is followed around a Dense layer only"),
    ChannelMap: ChannelMapRule(),
}

_RULES.update({**operation_rules(), **attention_rules(), **application_rules(), **slicing_rules()})
if hasattr(_layers, "RMSNormalization"):  # since Keras 3.9
    _RULES[_layers.RMSNormalization] = _along_channels


def rule_for(unit: Unit) -> Rule:
    """Returns the rule of the unit's exact class; a class without one is a barrier."""
    rule = _RULES.get(unit.cls, Barrier())
    if isinstance(rule, LinearMap) and rule.is_depthwise(unit):
        return GroupedDepthwise()
    return rule


def activation_key(cls: type) -> str | None:
    """Returns the config key of the activation that a layer applies last, if it has one."""
    return getattr(_RULES.get(cls), "activation_key", None)


set_activation_lookup(activation_key)


def layer_macs(call: Call) -> int | None:
    """Returns the MACs per sample of one call, or `None` if it may multiply, but how is not known.

    Raises:
        ValueError: If a dimension that matters is open.
    """
    macs = getattr(rule_for(call.unit), "macs", None)
    if macs is not None:
        return macs(call)
    return None if _may_multiply(call.unit) else 0


def _may_multiply(unit: Unit) -> bool:
    has_matrix = any(len(weight.shape) >= 2 for weight in unit.weights)
    return has_matrix or unit.cls.__name__ in _TENSOR_PRODUCTS


def register_rule(cls: type, rule: Rule) -> None:
    """Registers the rule of a layer class of your own, or replaces a built-in one.

    A `LinearMap` is complete: the layer is pruned, its MACs are counted, its activation is told
    apart from what it does linearly, and BatchNormalization is folded into it on export. So is a
    `Channelwise` for layers that treat every channel alone. A rule of your own needs the methods
    `trace` and `narrow`. It may also have

    * `activation_key`: config key of an activation that the layer applies last, and that `"linear"`
      turns off;
    * `macs(call)`: MACs per sample, `None` if they are not known. Without it layers with a matrix
      among their weights are reported as uncounted, others count as 0.

    If it derives from `rules.Folding`, and says how a kernel is multiplied with a factor per
    channel, BatchNormalization is folded too.

    Example:
        >>> import keras
        >>> import keras_branch_prune as kbp
        >>> class Projection(keras.layers.Layer):
        ...     def __init__(self, units, activation="linear", **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.units, self.activation = units, activation
        ...
        ...     def build(self, input_shape):
        ...         self.kernel = self.add_weight(shape=(self.units, input_shape[-1]))
        ...         self.bias = self.add_weight(shape=(self.units,))
        ...
        ...     def call(self, x):
        ...         x = x @ keras.ops.transpose(self.kernel) + self.bias
        ...         return keras.activations.get(self.activation)(x)
        ...
        ...     def get_config(self):
        ...         config = {"units": self.units, "activation": self.activation}
        ...         return {**super().get_config(), **config}
        >>> kbp.register_rule(
        ...     Projection, kbp.LinearMap("units", input_axis=1, output_axis=0, spatial=False)
        ... )
        >>> inputs = keras.Input((3,))
        >>> outputs = keras.layers.Dense(2)(Projection(8, activation="relu")(inputs))
        >>> model = keras.Model(inputs, outputs)
        >>> kbp.count_macs(model)
        40
        >>> [(group.channels, group.width) for group in kbp.plan(model, width=0.5).groups]
        [(8, 4)]

    Args:
        cls: The exact layer class; subclasses need their own entry.
        rule: A `Channelwise`, `Elementwise`, `LinearMap`, … or an object with the methods of
            `kbp.rules.Rule`: `trace(call, layouts, tracker)` returns the layout of the output,
            `narrow(call, layout, kept)` the call of the narrow layer.

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
    assert isinstance(rule, LinearRule)
    return rule.output_kernel(unit)
