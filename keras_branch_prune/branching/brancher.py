"""Puts a narrow branch beside every region of a model that a plan narrows.

For a region with input `h`, producer P, channelwise operations g and a consumer Q:

    c  = P(h)                        C channels
    o  = g(c)                        original branch
    p  = expand(g'(reduce(c)))       pruned branch, k of C channels in between
    h' = α·o + (1 − α)·p             what Q reads

`reduce` (C → k) and `expand` (k → C) are linear maps along the channels. At α = 0 only `p` counts,
and they can be multiplied into P and Q; `merger.py` does that. `expand` has no bias: a convolution
that pads with zeros sees it everywhere but in the border, and no bias of Q equals that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_branch_prune.analysis import Analysis, Narrowing, PruningPlan, analyse_for_plan
from keras_branch_prune.branching.reconstruction import reconstruct
from keras_branch_prune.channels import ChannelMatrices, Kept, Layout
from keras_branch_prune.graph import Call, Graph, ModelBuilder, Unit, Value, unique_name
from keras_branch_prune.layers import Alpha, AlphaBlend, ChannelMap, check_stochastic, narrow_name
from keras_branch_prune.rules import LinearRule, rule_for


def branch(
    model: keras.Model,
    plan: PruningPlan,
    *,
    calibration: Any = None,
    train_original: bool = True,
    stochastic: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """Puts a narrow parallel branch beside every region of a model that the plan narrows.

    At α = 1 the result equals `model`; an α callback lets α fall to 0 during `fit`; then `merge`
    turns it into the compact model. The pruned branch begins with the channels that the plan keeps;
    with calibration data it is fitted to the original, see `reconstruct`.

    Args:
        model: A built functional or Sequential model; it is not changed.
        plan: A plan made for a model of this structure.
        calibration: Inputs to fit the pruned branch on: arrays, a `tf.data.Dataset`, a `PyDataset`
            or a generator that ends; some hundred samples or more. No labels are needed.
        train_original: Whether the layers of the original model are trained too; else they are
            frozen until the merge.
        stochastic: Whether in training every blend takes one branch for the whole batch (the
            original one with probability α) instead of their mean, see `AlphaBlend`.
        seed: Seed of these draws, an integer; None takes a random one.

    Returns:
        A new functional model with the inputs and outputs of `model`, not compiled, α = 1.

    Raises:
        TypeError: If `model` is not a Keras model or `plan` not a plan.
        ValueError: If the plan was made for another model, or the model cannot be analysed or has
            weights that are not finite, or the calibration data does not fit, or `stochastic` or
            `seed` is of the wrong type.

    Example:
        >>> plan = keras_branch_prune.plan(model, width=0.5)
        >>> branched = keras_branch_prune.branch(model, plan, calibration=images)
        >>> keras_branch_prune.get_alpha(branched)
        1.0
    """
    check_stochastic(stochastic, seed)
    analysis = analyse_for_plan(model, plan)
    frozen = [] if train_original else _trainable_layers(analysis.graph)
    draws = {"stochastic": stochastic, "seed": seed}
    branched = _Brancher(analysis, plan.kept, frozen, draws).build()
    if calibration is not None:
        reconstruct(branched, calibration)
    return branched


def _trainable_layers(graph: Graph) -> list[str]:
    units = dict.fromkeys(call.unit for call in graph.calls)
    return [unit.name for unit in units if unit.weights and unit.config.get("trainable", True)]


class _Brancher:
    """Builds the original and the pruned branch side by side, call by call.

    `_tensors` holds a tensor of the original by its value in the graph, and that of the pruned
    branch by the narrow value. Where no channel goes the two values are one, and so the tensors.
    """

    def __init__(self, analysis: Analysis, kept: Kept, frozen: list[str], draws: dict[str, Any]):
        self._analysis = analysis
        self._kept = kept
        self._narrowing = Narrowing(analysis, kept)
        self._builder = ModelBuilder(analysis.graph)
        self._frozen = set(frozen)
        self._draws = draws
        self._blends = 0
        # A layer in the graph needs an input; which one does not matter.
        alpha = Unit("alpha", Alpha, {"name": "alpha", "frozen": frozen})
        self._alpha = self._builder.apply(alpha, self._builder.inputs[0])
        # Kept from their first use on, so that calls that share a layer still share it.
        self._units: dict[Any, Unit] = {}
        self._names = {call.unit.name for call in analysis.graph.calls}
        self._narrowed: set[str] = set()
        self._blended: dict[Value, Any] = {}
        self._tensors: dict[Value, Any] = {}

    def build(self) -> keras.Model:
        """Returns the branched model."""
        graph = self._analysis.graph
        self._tensors.update(zip(graph.input_values, self._builder.inputs, strict=True))
        for call in graph.calls:
            rule = rule_for(call.unit)
            if isinstance(rule, LinearRule):
                self._call_linear(rule, call)
            else:
                self._call_region(call)
        return self._builder.finish(tree.map_structure(self._tensors.__getitem__, graph.outputs))

    def _call_region(self, call: Call) -> None:
        unit = self._original_unit(call.unit)
        original = self._apply(unit, call, self._tensors.__getitem__)
        self._tensors.update(zip(call.outputs, original, strict=True))
        narrow = self._narrowing.call(call)
        if narrow.inputs == call.inputs:
            return
        pruned = self._apply(self._narrow_unit(narrow.unit), narrow, self._tensors.__getitem__)
        for value, narrow_value, tensor in zip(call.outputs, narrow.outputs, pruned, strict=True):
            # A slice may take only channels that stay: the branches meet again.
            if narrow_value is value:
                tensor = self._mix(call, value, tensor, value.dtype)
            self._tensors[narrow_value] = tensor

    def _call_linear(self, rule: LinearRule, call: Call) -> None:
        unit, value = self._original_unit(call.unit), call.outputs[0]
        outputs = self._apply(unit, call, lambda value: self._blend(call, value))
        self._tensors.update(zip(call.outputs, outputs, strict=True))
        layout = self._narrowing.layout(value)
        if layout is not None:
            reduce = self._reduce_unit(rule, call, layout)
            reduced = self._builder.apply(reduce, self._tensors[value])
            self._tensors[self._narrowing.value(value)] = reduced

    def _apply(self, unit: Unit, call: Call, lookup: Callable[[Value], Any]) -> list[Any]:
        """Calls the layer of `unit` as `call` says; `lookup` finds the tensors."""
        args, kwargs = call.bind(lookup)
        return tree.flatten(self._builder.apply(unit, *args, **kwargs))

    def _original_unit(self, unit: Unit) -> Unit:
        if unit.name not in self._frozen:
            return unit
        return self._units.setdefault(unit, unit.replace(config={"trainable": False}))

    def _narrow_unit(self, unit: Unit) -> Unit:
        """Returns the narrow copy of a layer, named after it; a further copy gets a number."""
        key = ("narrow", unit)
        if key not in self._units:
            name = unit.name
            if name in self._narrowed:
                name = unique_name(name, self._names)
            self._narrowed.add(name)
            self._units[key] = unit.replace(name=narrow_name(name))
        return self._units[key]

    def _reduce_unit(self, rule: LinearRule, call: Call, layout: Layout) -> Unit:
        """Returns the map C → k behind a producer."""
        name = f"{call.unit.name}__reduce"
        matrices = layout.reduce_map(self._kept, rule.conv_groups(call.unit))
        # A bias only where there is one to multiply it into: the compact model has the same layers.
        if rule.has_bias(call.unit):
            matrices = dataclasses.replace(matrices, bias=np.zeros(matrices.shape[1]))
        return self._units.setdefault(name, _channel_map(name, call, layout.axis, matrices))

    def _expand_unit(self, call: Call, value: Value, layout: Layout) -> Unit:
        """Returns the map k → C before a consumer: the same one for all tensors of an exit."""
        leaving = self._analysis.exits[value]
        name = f"{leaving.name}__expand"
        expand = _channel_map(
            name, call, layout.axis, layout.expand_map(self._kept, leaving.conv_groups)
        )
        return self._units.setdefault((name, leaving), expand)

    def _blend(self, call: Call, value: Value) -> Any:
        """Returns what a linear layer reads: both branches blended, or the tensor they share."""
        layout = self._narrowing.layout(value)
        if layout is None:
            return self._tensors[value]
        if value not in self._blended:
            narrow = self._tensors[self._narrowing.value(value)]
            pruned = self._builder.apply(self._expand_unit(call, value, layout), narrow)
            self._blended[value] = self._mix(call, value, pruned, call.unit.config["dtype"])
        return self._blended[value]

    def _mix(self, call: Call, value: Value, pruned: Any, dtype: Any) -> Any:
        name = f"{call.unit.name}__blend"
        config = {"name": name, "dtype": dtype, **self._draws}
        if config["seed"] is not None:
            # Else all blends would draw the same.
            config["seed"] += self._blends
        self._blends += 1
        blend = Unit(name, AlphaBlend, config)
        return self._builder.apply(blend, [self._alpha, self._tensors[value], pruned])


def _channel_map(name: str, call: Call, axis: int, matrices: ChannelMatrices) -> Unit:
    """Returns a `ChannelMap` with these weights and the dtype of the call's layer."""
    bias = [] if matrices.bias is None else [matrices.bias]
    config = {
        "name": name,
        "blocks": [[positions, *matrix.shape] for positions, matrix in matrices.blocks],
        "axis": axis,
        "use_bias": bool(bias),
        "dtype": call.unit.config["dtype"],
    }
    return Unit(name, ChannelMap, config, (*(matrix for _, matrix in matrices.blocks), *bias))
