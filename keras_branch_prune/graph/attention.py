"""Splits multi-head attention into linear maps and the attention between them, and back.

    query, key, value → HeadProjection each → HeadAttention → Dense

The parts compute the same products in the same order. What is inside attention is then ordinary
channels. With 4 heads of 16 channels each, a projection makes `(batch, length, 64)`:

* The *heads* are a channel group of 4 channels, each of which stands 16 times in a projection. A
  narrow branch has whole heads. Its reduce and expand maps may mix heads all the same: they stand
  outside the softmax, before it they multiply into the projections, behind it into the output.
* The *value channels* of a head are a group of 16, and every head keeps the same of them. The maps
  that training fits to them differ from head to head.
* The channels of queries and keys stay: their number also sets the scale of the scores.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_branch_prune.graph.attention_layers import HeadAttention, HeadProjection
from keras_branch_prune.graph.graph import Call, Graph, Unit, Value

MAY_BE_MASKED = "may get a Keras mask; give it an `attention_mask` instead"

_ROLES = ("query", "key", "value")
_MASKS = ("query_mask", "value_mask", "key_mask")
_SIGNATURE = inspect.signature(keras.layers.MultiHeadAttention.call)
_SHARED = (
    *("trainable", "dtype", "use_bias", "kernel_initializer", "bias_initializer"),
    *("kernel_regularizer", "bias_regularizer", "activity_regularizer"),
)


def reason_to_keep_whole(call: Call) -> str | None:
    """Returns why a call of `MultiHeadAttention` cannot be split, or `None` if it can."""
    config, arguments = call.unit.config, _arguments(call)
    tensors = list(attention_inputs(call).values())
    constraints = (config.get("kernel_constraint"), config.get("bias_constraint"))
    if not all(isinstance(tensor, Value) for tensor in tensors):
        return "is called on constants"
    if config["attention_axes"] not in (None, [1], (1,)) or any(len(t.shape) != 3 for t in tensors):
        return "attends along other axes than the middle one of three"
    if config.get("use_gate"):
        return "has a gate"
    if len(config["output_shape"] or ()) > 1:
        return "has an output_shape of several axes"
    if any(constraint is not None for constraint in constraints):
        return "has constraints on its weights"
    if any(arguments.get(mask) is not None for mask in _MASKS):
        return MAY_BE_MASKED
    # A kernel, and perhaps a bias, of query, key, value and output; anything else is unknown to us.
    if len(call.unit.weights) != (8 if config["use_bias"] else 4):
        return "has more weights than kernels and biases"
    return None


def split_attention(graph: Graph) -> Graph:
    """Splits every `MultiHeadAttention` that can be split, unless a layer makes Keras masks.

    The stock layer takes the mask off its inputs, also for the layers that read them later. The
    parts cannot do that.
    """
    if any(_makes_masks(call.unit) for call in graph.calls):
        return graph
    units = [c.unit for c in graph.calls if c.unit.cls is keras.layers.MultiHeadAttention]
    whole = {c.unit for c in graph.calls if c.unit in units and reason_to_keep_whole(c) is not None}
    parts = {unit: _Parts.of(unit) for unit in dict.fromkeys(units) if unit not in whole}
    calls: list[Call] = []
    for call in graph.calls:
        calls.extend(parts[call.unit].calls(call) if call.unit in parts else [call])
    return dataclasses.replace(graph, calls=tuple(calls))


def _makes_masks(unit: Unit) -> bool:
    return unit.cls is keras.layers.Masking or bool(unit.config.get("mask_zero"))


@dataclasses.dataclass(frozen=True, eq=False)
class _Parts:
    """The units that one attention layer is split into; `projections` are in order of `_ROLES`."""

    projections: tuple[Unit, ...]
    attention: Unit
    output: Unit

    @classmethod
    def of(cls, unit: Unit) -> _Parts:
        config, name = unit.config, unit.name
        shared = {key: config[key] for key in _SHARED}
        # Keras' order: query, key, value, output, each a kernel and then its bias.
        step = 2 if config["use_bias"] else 1
        weights = [unit.weights[i : i + step] for i in range(0, len(unit.weights), step)]
        projections = []
        # Three roles and four weights: the last is the output's.
        for role, (kernel, *biases) in zip(_ROLES, weights, strict=False):
            features, heads, size = kernel.shape
            flat = (_Reshaped(kernel, (features, heads * size)), *(_flat(b) for b in biases))
            options = {
                **shared,
                "activation": "linear",
                "name": f"{name}__{role}",
                "units": heads * size,
                "num_heads": heads,
                "heads_of": f"{name}__query" if role == "value" else None,
            }
            projections.append(Unit(options["name"], HeadProjection, options, flat))
        kernel, *biases = weights[-1]
        heads, size, width = kernel.shape
        # The last part has the name of the whole: it may be what a model output is called.
        flat = (_Reshaped(kernel, (heads * size, width)), *biases)
        options = {**shared, "name": name, "units": width, "activation": "linear"}
        output = Unit(name, keras.layers.Dense, options, flat)
        middle = unit.replace(name=f"{name}__attention", cls=HeadAttention, weights=())
        return cls(tuple(projections), middle, output)

    def calls(self, call: Call) -> list[Call]:
        """Returns the calls in the place of one call of the whole layer."""
        tensors = attention_inputs(call)
        options = {k: v for k, v in _arguments(call).items() if k not in _ROLES}
        result, *scores = call.outputs
        projected = {}
        calls = []
        for unit, role in zip(self.projections, _ROLES, strict=True):
            shape = (*tensors[role].shape[:-1], unit.config["units"])
            projected[role] = Value(shape, result.dtype)
            calls.append(Call(unit, (tensors[role],), {}, (projected[role],)))
        size = self.output.weights[0].shape[0]
        joined = Value((*result.shape[:-1], size), result.dtype)
        inputs = (projected["value"], projected["query"], projected["key"])
        calls.append(Call(self.attention, inputs, options, (joined, *scores)))
        calls.append(Call(self.output, (joined,), {}, (result,)))
        return calls


def fuse_attention(graph: Graph) -> Graph:
    """Puts the parts of split attention together again: the inverse of `split_attention`.

    Parts with another layer between them, such as the maps of a branched model, stay apart.
    """
    producer, readers = graph.producer(), graph.consumers()
    fused: dict[Unit, Unit] = {}
    wholes: dict[Call, Call] = {}
    parts: set[Call] = set()
    for call in graph.calls:
        if call.unit.cls is not HeadAttention:
            continue
        value, query, key = (producer.get(tensor) for tensor in call.args)
        before = [part for part in (query, key, value) if part is not None]
        after = readers.get(call.outputs[0], [])
        if not _are_parts(call, before, after, readers):
            continue
        if call.unit not in fused:
            fused[call.unit] = _fuse_layer(call.unit, [c.unit for c in before], after[0].unit)
        # The stock layer is called as (query, value, key), and without a key where it is the value.
        inputs = tuple(before[index].inputs[0] for index in (0, 2, 1))
        inputs = inputs[:2] if inputs[1] is inputs[2] else inputs
        outputs = (after[0].outputs[0], *call.outputs[1:])
        wholes[call] = Call(fused[call.unit], inputs, call.kwargs, outputs)
        parts.update(before, after)
    calls = tuple(wholes.get(call, call) for call in graph.calls if call not in parts)
    return dataclasses.replace(graph, calls=calls)


def _are_parts(
    call: Call,
    before: Sequence[Call],
    after: Sequence[Call],
    readers: Mapping[Value, list[Call]],
) -> bool:
    """Whether these calls feed and read the attention, and nothing else does."""
    projected = [part.unit.cls for part in before] == [HeadProjection] * len(_ROLES)
    alone = all(readers[part.outputs[0]] == [call] for part in before)
    return projected and alone and [part.unit.cls for part in after] == [keras.layers.Dense]


def _fuse_layer(attention: Unit, projections: Sequence[Unit], output: Unit) -> Unit:
    heads = attention.config["num_heads"]
    weights: list[np.ndarray] = []
    for projection in projections:
        kernel, *biases = projection.arrays()
        weights.append(kernel.reshape(len(kernel), heads, -1))
        weights.extend(bias.reshape(heads, -1) for bias in biases)
    # The first weight is the kernel of the queries, `(features, heads, size)`.
    features = len(weights[0])
    kernel, *biases = output.arrays()
    units = kernel.shape[-1]
    weights.extend([kernel.reshape(heads, -1, units), *biases])
    # Without an `output_shape` Keras makes the output as wide as the queries.
    follows = attention.config["output_shape"] is None and units == features
    return attention.replace(
        name=output.name,
        cls=keras.layers.MultiHeadAttention,
        config={"output_shape": None if follows else (units,)},
        weights=tuple(weights),
    )


def _arguments(call: Call) -> dict[str, Any]:
    """Returns the arguments of a call by name; all attention layers take the same."""
    arguments = _SIGNATURE.bind(None, *call.args, **call.kwargs).arguments
    return {name: value for name, value in arguments.items() if name != "self"}


def attention_inputs(call: Call) -> dict[str, Any]:
    """Returns the query, key and value that an attention layer is called on."""
    arguments = _arguments(call)
    query, value, key = (arguments.get(role) for role in ("query", "value", "key"))
    return {"query": query, "key": value if key is None else key, "value": value}


def _flat(weight: Any) -> _Reshaped:
    return _Reshaped(weight, (math.prod(weight.shape),))


@dataclasses.dataclass(frozen=True, eq=False)
class _Reshaped:
    """A variable in another shape, read only when it is needed."""

    variable: Any
    shape: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """The variable's dtype."""
        return str(self.variable.dtype)

    def numpy(self) -> np.ndarray:
        """Returns the reshaped values."""
        return np.reshape(np.asarray(self.variable.numpy()), self.shape)
