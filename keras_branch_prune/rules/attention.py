"""The rules of multi-head attention: of whole layers and of the parts in `graph/attention.py`."""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np

from keras_branch_prune.channels import (
    Block,
    ChannelMatrices,
    ChannelTracker,
    Kept,
    Layout,
    Layouts,
    Segment,
    multiply_weights,
)
from keras_branch_prune.graph import (
    MAY_BE_MASKED,
    Call,
    HeadAttention,
    HeadProjection,
    Unit,
    Value,
    attention_inputs,
    reason_to_keep_whole,
)
from keras_branch_prune.rules.base import Barrier, Rule, describe, keep_all_whole, positions
from keras_branch_prune.rules.linear import Expands, LinearMap, LinearRule


@dataclasses.dataclass(frozen=True)
class WholeAttention(Barrier):
    """Attention that could not be split: what goes in keeps its width."""

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> None:
        """Keeps all inputs whole."""
        reason = reason_to_keep_whole(call) or MAY_BE_MASKED
        keep_all_whole(layouts, tracker, f"{describe(call.unit)} {reason}")

    def macs(self, call: Call) -> int | None:
        """Returns the MACs of the projections, the scores and the weighted sums."""
        return _attention_macs(call)


@dataclasses.dataclass(frozen=True)
class HeadMap(LinearMap):
    """The projection of queries, keys or values to heads.

    With 4 heads of 16 channels each, the projections of queries and keys produce a group of 4
    heads; each is repeated 16 times, as the channels in it stay. That of values produces a group of
    16 value channels, which every head of the queries' group has.
    """

    def _produce(self, unit: Unit, axis: int, tracker: ChannelTracker) -> Layout:
        heads, size = _heads(unit)
        whole = unit.config["heads_of"]
        # The layouts of `produce` are not used: the axis is heads · size long.
        if whole is None:
            tracker.produce(unit, axis, heads)
            segment = Segment(unit.name, heads, repeat=size)
        else:
            tracker.produce(unit, axis, size)
            segment = Segment(whole, heads, inner=Segment(unit.name, size))
        return Layout(axis, (Block(1, (segment,)),))

    def output_kernel(self, unit: Unit) -> np.ndarray:
        """Returns the kernel as `(everything else, heads)`, or `(…, value channels)` of values."""
        heads, size = _heads(unit)
        kernel = unit.arrays()[0].reshape(-1, heads, size)
        if unit.config["heads_of"] is None:
            return np.moveaxis(kernel, 1, -1).reshape(-1, heads)
        return kernel.reshape(-1, size)


@dataclasses.dataclass(frozen=True)
class HeadAttentionRule:
    """Attention between the projections: its output has the heads and channels of the values."""

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Ties the heads of queries and keys, and returns the layout of the values."""
        value, query, key, *others = layouts
        where = describe(call.unit)
        keep_all_whole(others, tracker, f"{where} uses it as a mask")
        if len(call.outputs) > 1 or value is None or query is None or key is None:
            # Scores have an axis of heads too, along which nothing could be narrowed.
            reason = f"{where} returns its attention scores"
            keep_all_whole((value, query, key), tracker, reason)
            return None
        tracker.tie([query, key], where)
        return value

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Returns the attention of fewer heads, of fewer value channels, or of both."""
        (segment,) = layout.segments()
        assert segment.inner is not None
        config = {"num_heads": segment.width(kept), "value_dim": segment.inner.width(kept)}
        return call.replace_unit(config=config)

    def macs(self, call: Call) -> int:
        """Returns the MACs of the scores and of the weighted sums, for all pairs of positions."""
        (_, query, key), config = call.args, call.unit.config
        pairs = positions(call, query, 2) * positions(call, key, 2)
        return pairs * int(config["num_heads"]) * (config["key_dim"] + config["value_dim"])


@dataclasses.dataclass(frozen=True)
class GroupedAttention(LinearRule):
    """`GroupQueryAttention`, where several heads of queries share one of keys and values.

    It consumes query, key and value, and produces its output; its heads stay. Keras wants query,
    value and output to be equally wide.
    """

    def trace(self, call: Call, layouts: Layouts, tracker: ChannelTracker) -> Layout | None:
        """Notes the consumed inputs; ties the channels it produces to query and value."""
        unit, where, roles = call.unit, describe(call.unit), self.inputs(call)
        reason = self._why_not(call)
        if reason is not None:
            keep_all_whole(layouts, tracker, f"{where} {reason}")
            return None
        # By tensor, as one may be query, key and value at once.
        by_value = dict(zip(call.inputs, layouts, strict=True))
        for value, layout in by_value.items():
            if value not in roles.values():
                tracker.keep_whole(layout, f"{where} uses it as a mask")
        for role, value in roles.items():
            tracker.tie_calls(unit, role, by_value[value])
            tracker.consume(value, unit, role)
        axis = len(call.outputs[0].shape) - 1
        produced = tracker.produce(unit, axis, self.output_kernel(unit).shape[-1])
        tracker.tie([by_value[roles["query"]], by_value[roles["value"]], produced], where)
        return produced

    @staticmethod
    def _why_not(call: Call) -> str | None:
        if call.unit.config.get("use_gate"):
            return "has a gate"
        if len(call.outputs) > 1:
            return "returns its attention scores"
        # Kernels of query, key, value and output, each with its bias behind it if there are any.
        if len(call.unit.weights) != (8 if call.unit.config["use_bias"] else 4):
            return "has more weights than kernels and biases"
        return None

    def inputs(self, call: Call) -> dict[str, Value]:
        """Returns query, key and value."""
        return attention_inputs(call)

    def multiply(self, unit: Unit, expands: Expands, reduce: ChannelMatrices | None) -> Unit:
        """Returns the attention with the kernels of its inputs and output multiplied."""
        # The order of the weights is as in `_why_not`.
        step, weights = 2 if unit.config["use_bias"] else 1, list(unit.weights)
        for index, role in zip(range(0, 3 * step, step), ("query", "key", "value"), strict=True):
            (weights[index],) = multiply_weights([weights[index]], (0, -1), expands.get(role), None)
        weights[3 * step :] = multiply_weights(weights[3 * step :], (0, -1), None, reduce)
        return unit.replace(weights=tuple(weights))

    def output_kernel(self, unit: Unit) -> np.ndarray:
        """Returns the kernel of the output as `(everything else, output channels)`."""
        kernel = unit.arrays()[-2 if unit.config["use_bias"] else -1]
        return kernel.reshape(-1, kernel.shape[-1])

    def macs(self, call: Call) -> int | None:
        """Returns the MACs of the projections, the scores and the weighted sums."""
        return _attention_macs(call)


def attention_rules() -> dict[type, Rule]:
    """Returns the rules of attention by class."""
    return {
        keras.layers.MultiHeadAttention: WholeAttention(),
        HeadProjection: HeadMap("units", input_axis=0, output_axis=1, spatial=False),
        HeadAttention: HeadAttentionRule(),
        keras.layers.GroupQueryAttention: GroupedAttention(),
    }


def _heads(unit: Unit) -> tuple[int, int]:
    heads = unit.config["num_heads"]
    return heads, unit.config["units"] // heads


def _attention_macs(call: Call) -> int | None:
    kernels = [weight for weight in call.unit.weights if len(weight.shape) == 3]
    query, key, value = (attention_inputs(call)[role] for role in ("query", "key", "value"))
    if len(kernels) != 4 or any(len(x.shape) != 3 for x in (query, value, key)):
        return None
    lengths = [positions(call, x, 2) for x in (query, key, value, query)]
    sizes = [math.prod(kernel.shape) for kernel in kernels]
    projections = sum(length * size for length, size in zip(lengths, sizes, strict=True))
    # Kernels of queries are (inputs, heads, size). Scores and weighted sums are made per head of
    # the queries, of which several may share one of keys and values.
    heads, channels = kernels[0].shape[1], kernels[1].shape[2] + kernels[2].shape[2]
    return projections + lengths[0] * lengths[1] * heads * channels
