"""BatchNormalization folded into the linear layers before or after it."""

from __future__ import annotations

import collections
import dataclasses

import keras
import numpy as np
from keras import layers

from keras_branch_prune.graph import (
    Call,
    Graph,
    Unit,
    build_model,
    canonical,
    fuse_attention,
    replace_units,
    substitute,
)
from keras_branch_prune.rules import Folding, rule_for


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Returns a model that predicts the same with fewer BatchNormalization layers.

    At inference BatchNormalization is a map a·x + b per channel, with a = γ / √(σ² + ε) and
    b = β − a·μ. It is multiplied into a neighbour, in float64 and rounded once:

    * into the linear layer before it (Dense, EinsumDense, convolution, transposed, depthwise or
      separable convolution, without activation; or one that `register_rule` knows), if nothing
      else reads that layer;
    * else into the linear layers after it, if all its readers are linear and the result is exact.
      It is for Dense, EinsumDense and a convolution without padding. The zeros that a convolution
      with padding "same" or "causal" adds would have to be b, and a transposed convolution adds up
      more values at some positions than at others: those fold only a map with b = 0, or any map if
      their kernel is a single pixel (and a transposed one has no strides).

    The linear layer needs the same channel axis and dtype. Layers that are used several times and
    BatchNormalization called with `training=True` stay; so do Dropout and all else. Separable
    convolutions come back as their two parts, and activations as layers of their own. Input and
    output names stay. The result is for inference: its statistics are constants.

    Example:
        >>> inputs = keras.Input((8, 8, 3))
        >>> x = keras.layers.Conv2D(4, 3)(inputs)
        >>> x = keras.layers.BatchNormalization(name="scores")(x)
        >>> folded = keras_branch_prune.fold_batch_norm(keras.Model(inputs, x))
        >>> [(layer.name, type(layer).__name__) for layer in folded.layers[1:]]
        [('scores', 'Conv2D')]

    Args:
        model: A built functional or Sequential model, nested models allowed. It is not changed.

    Returns:
        A flat functional model with copies of the weights.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, has no functional graph, or contains a quantized layer.
    """
    return build_model(fold_norms(fuse_attention(canonical(model))))


def fold_norms(graph: Graph) -> Graph:
    """Returns the graph with every BatchNormalization that allows it folded."""
    # Backwards first: there the fold is exact whatever the padding.
    return _fold_forwards(_fold_backwards(graph))


def _fold_backwards(graph: Graph) -> Graph:
    """Folds every BatchNormalization that can be into the layer before it."""
    producer, readers = graph.producer(), graph.consumers()
    outputs, uses = set(graph.output_values), _count_uses(graph)
    folded: dict[Call, Call] = {}
    dropped: set[Call] = set()
    for call in graph.calls:
        before = producer.get(call.inputs[0]) if call.inputs else None
        if before is None or not _is_fixed_norm(call):
            continue
        value = call.inputs[0]
        used_once = uses[before.unit] == uses[call.unit] == 1
        # The value before normalization is gone afterwards: nothing else may need it.
        if not used_once or readers[value] != [call] or value in outputs:
            continue
        both = _fold_into_producer(before, call, call.outputs[0] in outputs)
        if both is not None:
            folded[before] = both
            dropped.add(call)
    calls = tuple(folded.get(call, call) for call in graph.calls if call not in dropped)
    return dataclasses.replace(graph, calls=calls)


def _fold_forwards(graph: Graph) -> Graph:
    """Folds every BatchNormalization that can be into the layers after it."""
    # One at a time: of several in a row the last goes first, and then the one before it can.
    while (found := _find_foldable(graph)) is not None:
        norm, units = found
        graph = substitute(replace_units(graph, units), {norm.outputs[0]: norm.inputs[0]})
    return graph


def _find_foldable(graph: Graph) -> tuple[Call, dict[Unit, Unit]] | None:
    """Returns a BatchNormalization that folds into all its readers, and what they become."""
    readers, uses = graph.consumers(), _count_uses(graph)
    for call in filter(_is_fixed_norm, graph.calls):
        after = readers.get(call.outputs[0], [])
        used_once = all(uses[each.unit] == 1 for each in (call, *after))
        if not after or not used_once or call.outputs[0] in graph.output_values:
            continue
        folded = {reader.unit: _fold_into_reader(call, reader) for reader in after}
        units = {unit: both for unit, both in folded.items() if both is not None}
        if len(units) == len(after):
            return call, units
    return None


def _count_uses(graph: Graph) -> dict[Unit, int]:
    return collections.Counter(call.unit for call in graph.calls)


def _is_fixed_norm(call: Call) -> bool:
    return call.unit.cls is layers.BatchNormalization and not call.kwargs.get("training")


def _fold_into_producer(before: Call, norm: Call, is_output: bool) -> Call | None:
    """Returns one call that does both, if there is one; an output keeps its name."""
    rule = rule_for(before.unit)
    # Of another dtype, BatchNormalization also casts.
    if not isinstance(rule, Folding) or before.outputs[0].dtype != norm.outputs[0].dtype:
        return None
    unit = rule.fold_output(before, _axis(norm), *_scale_and_shift(norm.unit))
    if unit is None:
        return None
    name = norm.unit.name if is_output else unit.name
    return dataclasses.replace(before, unit=unit.replace(name=name), outputs=norm.outputs)


def _fold_into_reader(norm: Call, reader: Call) -> Unit | None:
    """Returns the reader's layer with the normalization in it, if there is one."""
    rule = rule_for(reader.unit)
    dtypes = {norm.inputs[0].dtype, norm.outputs[0].dtype, reader.outputs[0].dtype}
    if not isinstance(rule, Folding) or reader.inputs != norm.outputs or len(dtypes) > 1:
        return None
    return rule.fold_input(reader, _axis(norm), *_scale_and_shift(norm.unit))


def _axis(norm: Call) -> int:
    return int(norm.unit.config["axis"]) % len(norm.outputs[0].shape)


def _scale_and_shift(unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    """Returns a, b (float64) with `BatchNormalization(x) = a·x + b` at inference."""
    # Keras' order is γ, β, mean, variance, where γ and β may be missing: read from the end.
    arrays = [array.astype(np.float64) for array in unit.arrays()]
    variance, mean = arrays.pop(), arrays.pop()
    beta = arrays.pop() if unit.config["center"] else 0.0
    gamma = arrays.pop() if unit.config["scale"] else 1.0
    scale = gamma / np.sqrt(variance + unit.config["epsilon"])
    return scale, beta - mean * scale
