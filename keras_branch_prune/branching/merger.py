"""Makes the compact model of a branched one at α = 0: the maps are multiplied into its layers.

No records of the branching are needed: a branched model is read like any other, so that it may come
from a file. What to do is told by the layers: `AlphaBlend`, `ChannelMap` and the names of narrow
copies.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras

from keras_branch_prune.channels import ChannelMatrices
from keras_branch_prune.graph import (
    Call,
    Graph,
    Unit,
    Value,
    build_model,
    canonical,
    check_equivalent,
    fuse,
    replace_units,
    substitute,
)
from keras_branch_prune.layers import (
    AlphaBlend,
    ChannelMap,
    alpha_layer,
    get_alpha,
    is_narrow,
    original_name,
)
from keras_branch_prune.rules import LinearRule, rule_for


def merge(branched: keras.Model, *, verify: bool = True) -> keras.Model:
    """Multiplies the linear maps of a branched model at α = 0 together into the compact model.

    Args:
        branched: A model made by `branch`, with α = 0; it is not changed.
        verify: Whether to compare the result with `branched` on random inputs.

    Returns:
        A new model of stock Keras layers, not compiled, whose layers have the names and configs of
        the original's and the widths of the plan.

    Raises:
        ValueError: If `branched` is not a branched model, or α is not 0, or the result differs by
            more than rounding (for example because weights are NaN).

    Example:
        >>> keras_branch_prune.set_alpha(branched, 0)
        >>> compact = keras_branch_prune.merge(branched)
        >>> compact.count_params() < model.count_params()
        True
    """
    alpha = get_alpha(branched)
    if alpha != 0:
        raise ValueError(
            f"`branched` must have α = 0 to be merged. Received: α = {alpha:g}; train on, or call "
            "`set_alpha(branched, 0)` to give the original branch up at once."
        )
    frozen = set(alpha_layer(branched).frozen)
    graph = _merge_graph(_drop_original_branch(canonical(branched)), frozen)
    compact = build_model(fuse(graph))
    if verify:
        check_equivalent(branched, compact)
    return compact


def _drop_original_branch(graph: Graph) -> Graph:
    """Puts the pruned input of every blend in its place; what nothing reads any more is dropped."""
    blends = {c.outputs[0]: c.inputs[2] for c in graph.calls if c.unit.cls is AlphaBlend}
    return substitute(graph, blends)


def _merge_graph(graph: Graph, frozen: set[str]) -> Graph:
    """Multiplies every map into the linear layer before it (reduce) or behind it (expand)."""
    producer, readers = graph.producer(), graph.consumers()
    maps = [call for call in graph.calls if call.unit.cls is ChannelMap]
    merged: dict[Unit, Unit] = {}
    for call in graph.calls:
        # Any call of a shared layer will do: all of them have the same maps around them.
        if call.unit not in merged and call.unit.cls is not ChannelMap:
            merged[call.unit] = _merge_unit(call, producer, readers, frozen)
    bypass = {call.outputs[0]: call.inputs[0] for call in maps}
    return replace_units(substitute(graph, bypass), merged)


def _merge_unit(
    call: Call,
    producer: Mapping[Value, Call],
    readers: Mapping[Value, list[Call]],
    frozen: set[str],
) -> Unit:
    unit = call.unit
    config = {"trainable": True} if unit.name in frozen else {}
    unit = unit.replace(name=original_name(unit.name), config=config)
    rule = rule_for(unit)
    # A narrow copy lies between the maps and takes up none, even if it has a linear rule: a grouped
    # convolution with one channel per group is depthwise, until a single group is left of it.
    if is_narrow(call.unit.name) or not isinstance(rule, LinearRule):
        return unit
    expands = {
        role: ChannelMatrices.of(producer[value].unit)
        for role, value in rule.inputs(call).items()
        if value in producer and producer[value].unit.cls is ChannelMap
    }
    after = [reader.unit for reader in readers.get(call.outputs[0], [])]
    reduce = next((unit for unit in after if unit.cls is ChannelMap), None)
    return rule.multiply(unit, expands, ChannelMatrices.of(reduce) if reduce else None)
