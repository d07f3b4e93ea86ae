"""Puts a narrow branch beside every region of a model that a plan narrows.

For a region with input `h`, producer P, channelwise operations g and a consumer Q:

    c  = P(h)
    o  = g(c)                        original branch
    p  = expand(g'(reduce(c)))       pruned branch, k of C channels in between
    h' = α·o + (1 − α)·p             what Q reads

`reduce` and `expand` are linear maps along the channels, so that at α = 0, where `o` is not used
any more, they can be multiplied into P and Q (see `merge.py`, the inverse). `expand` has no bias: a
bias before a zero-padded convolution is not a bias after it, and the product would not be exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_branch_prune.analysis import Analysis, PruningPlan, analyse, check_plan, check_weights
from keras_branch_prune.branching.reconstruction import reconstruct
from keras_branch_prune.channels import ChannelMatrices, Kept, Layout
from keras_branch_prune.graph import Call, Graph, ModelBuilder, Unit, Value, canonical
from keras_branch_prune.layers import Alpha, AlphaBlend, ChannelMap, check_stochastic, narrow_name
from keras_branch_prune.rules import LinearRule, SlicingRule, rule_for


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
        train_original: Whether the layers of the original model are trained too, or frozen until
            the merge.
        stochastic: Whether every blend takes, in training, one of the branches for the whole batch,
            the original one with probability α, instead of the mean of both (see `AlphaBlend`).
        seed: Seed of these draws, an integer; None takes a random one.

    Returns:
        A new functional model with the inputs and outputs of `model`, not compiled, α = 1.

    Raises:
        TypeError: If `model` is not a Keras model or `plan` not a plan.
        ValueError: If the plan was made for another model, or the model cannot be analysed or has
            weights that are not finite, or the calibration data does not fit, or `stochastic` or
            `seed` is of the wrong type.
    """
    check_stochastic(stochastic, seed)
    graph = canonical(model)
    check_weights(graph)
    analysis = analyse(graph)
    check_plan(plan, analysis)
    frozen = [] if train_original else _trainable_layers(graph)
    chance = {"stochastic": stochastic, "seed": seed}
    branched = _Brancher(analysis, plan.kept, frozen, chance).build()
    if calibration is not None:
        reconstruct(branched, calibration)
    return branched


def _trainable_layers(graph: Graph) -> list[str]:
    units = dict.fromkeys(call.unit for call in graph.calls)
    return [unit.name for unit in units if unit.weights and unit.config.get("trainable", True)]


@dataclasses.dataclass(frozen=True, eq=False)
class _Track:
    """A tensor in both branches; `pruned` is `None` where no channel goes."""

    original: Any
    pruned: Any = None

    def narrowest(self) -> Any:
        """The tensor of the pruned branch, or the one that both branches share."""
        return self.original if self.pruned is None else self.pruned


class _Brancher:
    """Runs the original and the pruned branch through the graph side by side."""

    def __init__(self, analysis: Analysis, kept: Kept, frozen: list[str], chance: dict[str, Any]):
        self._analysis = analysis
        self._kept = kept
        self._builder = ModelBuilder(analysis.graph)
        self._frozen = set(frozen)
        self._chance = chance
        self._blends = 0
        alpha = Unit("alpha", Alpha, {"name": "alpha", "frozen": frozen})
        self._alpha = self._builder.apply(alpha, self._builder.inputs[0])
        self._units: dict[Any, Unit] = {}
        self._blended: dict[Value, Any] = {}

    def build(self) -> keras.Model:
        """Returns the branched model."""
        inputs = [_Track(tensor) for tensor in self._builder.inputs]
        outputs = self._analysis.graph.run(inputs, self._call)
        return self._builder.finish(tree.map_structure(lambda track: track.original, outputs))

    def _call(self, call: Call, *args: Any, **kwargs: Any) -> Any:
        rule = rule_for(call.unit)
        if isinstance(rule, LinearRule):
            return self._call_linear(rule, call, *args, **kwargs)
        original = self._apply(self._original(call), args, kwargs, lambda track: track.original)
        layout = next(filter(None, map(self._narrowed, call.inputs)), None)
        if layout is None:
            return tree.map_structure(_Track, original)
        if isinstance(rule, SlicingRule):
            call = rule.narrow_call(call, layout, self._kept)
            args = (*args[:1], *call.args[1:])
        pruned = self._apply(self._pruned(call, layout), args, kwargs, _Track.narrowest)
        pairs = zip(call.outputs, tree.flatten(original), tree.flatten(pruned), strict=True)
        return [self._track(call, *pair) for pair in pairs]

    def _track(self, call: Call, value: Value, original: Any, pruned: Any) -> _Track:
        """Returns both tensors, or their blend where a slice has left no channel that goes."""
        if self._narrowed(value) is not None:
            return _Track(original, pruned)
        return _Track(self._mix(call, value.dtype, original, pruned))

    def _call_linear(self, rule: LinearRule, call: Call, *args: Any, **kwargs: Any) -> _Track:
        values = iter(call.inputs)
        output = self._apply(
            self._original(call), args, kwargs, lambda track: self._blend(call, next(values), track)
        )
        layout = self._narrowed(call.outputs[0])
        if layout is None:
            return _Track(output)
        return _Track(output, self._builder.apply(self._reduce(rule, call, layout), output))

    def _apply(self, unit: Unit, args: tuple, kwargs: dict, select: Callable[[_Track], Any]) -> Any:
        """Calls the layer of `unit`; `select` takes its inputs from one of the branches."""
        args, kwargs = tree.map_structure(
            lambda leaf: select(leaf) if isinstance(leaf, _Track) else leaf, (args, kwargs)
        )
        return self._builder.apply(unit, *args, **kwargs)

    def _narrowed(self, value: Value) -> Layout | None:
        """Returns the layout of a tensor that is narrower in the pruned branch, else `None`."""
        layout = self._analysis.layouts.get(value)
        return layout if layout is not None and layout.is_narrowed(self._kept) else None

    def _once(self, key: Any, make: Callable[[], Unit]) -> Unit:
        """Makes a unit at its first use, so that calls that share a layer still share it."""
        if key not in self._units:
            self._units[key] = make()
        return self._units[key]

    def _original(self, call: Call) -> Unit:
        unit = call.unit
        if unit.name not in self._frozen:
            return unit
        return self._once(unit, lambda: unit.replace(config={"trainable": False}))

    def _pruned(self, call: Call, layout: Layout) -> Unit:
        name = narrow_name(call.unit.name)
        narrow = rule_for(call.unit).narrow
        return self._once(
            (name, layout), lambda: narrow(call.unit, layout, self._kept).replace(name=name)
        )

    def _reduce(self, rule: LinearRule, call: Call, layout: Layout) -> Unit:
        """The map C → k after a producer; it has a bias if the producer has one."""
        name = f"{call.unit.name}__reduce"

        def make() -> Unit:
            matrices = layout.reduce_map(self._kept, rule.conv_groups(call.unit))
            if rule.has_bias(call.unit):
                matrices = dataclasses.replace(matrices, bias=np.zeros(matrices.shape[1]))
            return _channel_map(name, call, layout.axis, matrices)

        return self._once(name, make)

    def _expand(self, call: Call, value: Value, layout: Layout) -> Unit:
        """The map k → C before a consumer, shared by all that share a consumer."""
        leaving = self._analysis.exits[value]
        name = f"{leaving.name}__expand"

        def make() -> Unit:
            matrices = layout.expand_map(self._kept, leaving.conv_groups)
            return _channel_map(name, call, layout.axis, matrices)

        return self._once((name, leaving), make)

    def _blend(self, call: Call, value: Value, track: _Track) -> Any:
        """Returns what a linear layer reads: both branches blended, or the one there is."""
        layout = self._narrowed(value)
        if layout is None:
            return track.original
        if value not in self._blended:
            pruned = self._builder.apply(self._expand(call, value, layout), track.pruned)
            dtype = call.unit.config["dtype"]
            self._blended[value] = self._mix(call, dtype, track.original, pruned)
        return self._blended[value]

    def _mix(self, call: Call, dtype: Any, original: Any, pruned: Any) -> Any:
        name = f"{call.unit.name}__blend"
        config = {"name": name, "dtype": dtype, **self._chance}
        if config["seed"] is not None:
            # Blends of one seed would all draw the same.
            config["seed"] += self._blends
        self._blends += 1
        blend = Unit(name, AlphaBlend, config)
        return self._builder.apply(blend, [self._alpha, original, pruned])


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
