"""The table of rules: all that is known of each Keras layer, by exact class.

A class that is not in the table is a barrier: what it reads keeps its width. Subclasses of a known
class do not inherit its rule, as they may do something else. What every rule must know is asked of
the rule itself (`rule_for`); what it need not know, MACs and activation, of the functions here.
"""

from __future__ import annotations

import numpy as np
from keras import layers

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


def _each_rank(*names: str) -> list[type]:
    """Returns layers for 1, 2 and 3 axes of positions: `"Conv{}D"` are `Conv1D` to `Conv3D`."""
    return [getattr(layers, name.format(rank)) for name in names for rank in (1, 2, 3)]


_spatial = Channelwise(_data_format_axis)
_along_channels = Channelwise(_only_channel_axis)

_RULES: dict[type, Rule] = {
    layers.Dense: LinearMap("units", input_axis=0, output_axis=1, spatial=False),
    **dict.fromkeys(_each_rank("Conv{}D"), LinearMap("filters", input_axis=-2, output_axis=-1)),
    # Keras' kernels of transposed convolutions are (…, filters, input channels).
    **dict.fromkeys(
        _each_rank("Conv{}DTranspose"),
        LinearMap("filters", input_axis=-1, output_axis=-2, transposed=True),
    ),
    layers.EinsumDense: EinsumMap(),
    layers.Embedding: EmbeddingMap(),
    layers.BatchNormalization: Channelwise(_config_axis),
    layers.Activation: Channelwise(
        _elementwise_activation, otherwise="may mix channels: its activation is not elementwise"
    ),
    # Its weights have no batch axis.
    layers.PReLU: Channelwise(weight_axis=lambda axis: axis - 1),
    **dict.fromkeys(
        [
            layers.ReLU,
            layers.LeakyReLU,
            layers.ELU,
            layers.ActivityRegularization,
            layers.AlphaDropout,
            layers.GaussianDropout,
            layers.GaussianNoise,
            layers.Identity,
        ],
        Channelwise(),
    ),
    layers.Dropout: Channelwise(
        _noise_alike_for_channels, otherwise="has a noise_shape of its own"
    ),
    **dict.fromkeys(_each_rank("MaxPooling{}D", "AveragePooling{}D"), _spatial),
    **dict.fromkeys(_each_rank("ZeroPadding{}D", "Cropping{}D", "UpSampling{}D"), _spatial),
    **dict.fromkeys(_each_rank("SpatialDropout{}D"), _spatial),
    layers.Resizing: _spatial,
    **dict.fromkeys(
        _each_rank("GlobalMaxPooling{}D", "GlobalAveragePooling{}D"),
        Channelwise(_data_format_axis, drops_positions=True),
    ),
    **dict.fromkeys(
        [
            layers.Add,
            layers.Subtract,
            layers.Multiply,
            layers.Average,
            layers.Maximum,
            layers.Minimum,
        ],
        Elementwise(),
    ),
    layers.Concatenate: Concatenation(),
    layers.Flatten: Flattening(),
    layers.Softmax: Barrier("mixes the channels"),
    layers.Reshape: Reshaping(),
    # `dims` counts the axes from 1, without the batch.
    layers.Permute: Permutation(lambda unit, rank: (0, *unit.config["dims"])),
    layers.DepthwiseConv1D: Depthwise(),
    layers.DepthwiseConv2D: Depthwise(),
    layers.LayerNormalization: _along_channels,
    layers.Normalization: GivenStatistics(_at_most_channel_axis),
    layers.UnitNormalization: _along_channels,
    layers.GroupNormalization: GroupNorm(),
    layers.Rescaling: Channelwise(_scalar_scale, otherwise="has a scale for every channel"),
    **dict.fromkeys(
        [
            *_each_rank("ConvLSTM{}D"),
            layers.Bidirectional,
            layers.GRU,
            layers.LSTM,
            layers.RNN,
            layers.SimpleRNN,
        ],
        Barrier("is recurrent"),
    ),
    layers.TimeDistributed: Barrier("is followed around a Dense layer only"),
    ChannelMap: ChannelMapRule(),
    **operation_rules(),
    **attention_rules(),
    **application_rules(),
    **slicing_rules(),
}

# Since Keras 3.9.
if hasattr(layers, "RMSNormalization"):
    _RULES[layers.RMSNormalization] = _along_channels


def rule_for(unit: Unit) -> Rule:
    """Returns the rule of the unit's exact class; a class without one is a barrier."""
    rule = _RULES.get(unit.cls, Barrier())
    # Each of its groups reads one channel, so that it lies inside a region and is no consumer.
    if isinstance(rule, LinearMap) and rule.is_depthwise(unit):
        return GroupedDepthwise()
    return rule


def activation_key(cls: type) -> str | None:
    """Returns the config key of the activation that a layer applies last, if it has one."""
    return getattr(_RULES.get(cls), "activation_key", None)


# `graph/` splits activations off their layers, but lies below the rules, which know the keys.
set_activation_lookup(activation_key)


def layer_macs(call: Call) -> int | None:
    """Returns the MACs per sample of one call, or `None` if it may multiply and has no rule for it.

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
