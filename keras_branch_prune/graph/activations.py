"""Activations inside layers: split off for the analysis, and put back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import keras

from keras_branch_prune.graph.graph import Call, Graph, Unit, Value
from keras_branch_prune.graph.rewriting import replace_units

ACTIVATION_SUFFIX = "__activation"

ActivationLookup = Callable[[type], str | None]
"""Maps a layer class to the config key of its fused activation, `None` if it has none."""

_lookup: ActivationLookup = dict[type, str]().get


def set_activation_lookup(lookup: ActivationLookup) -> None:
    """Sets who knows about fused activations: the table of rules, which lies above this folder."""
    global _lookup
    _lookup = lookup


def has_fused_activation(unit: Unit) -> bool:
    """Whether a layer applies an activation to what it returns."""
    key = _lookup(unit.cls)
    return key is not None and unit.config.get(key) not in (None, "linear")


def split_activations(graph: Graph) -> Graph:
    """Splits fused activations off, except at model outputs, whose names must not change."""
    heads = set(graph.output_values)
    keep = {call.unit for call in graph.calls if heads.intersection(call.outputs)}
    parts: dict[Unit, tuple[Unit, Unit]] = {}
    calls: list[Call] = []
    for call in graph.calls:
        if call.unit in keep or not has_fused_activation(call.unit):
            calls.append(call)
            continue
        if call.unit not in parts:
            parts[call.unit] = _split_activation(call.unit)
        linear, activation = parts[call.unit]
        # The activation takes over the call's output, so that its readers need not be rewritten.
        inner = Value(call.outputs[0].shape, call.outputs[0].dtype)
        calls.append(dataclasses.replace(call, unit=linear, outputs=(inner,)))
        calls.append(Call(activation, (inner,), {}, call.outputs))
    return dataclasses.replace(graph, calls=tuple(calls))


def _split_activation(unit: Unit) -> tuple[Unit, Unit]:
    key, name = _lookup(unit.cls), unit.name + ACTIVATION_SUFFIX
    assert key is not None
    config = {"activation": unit.config[key], "dtype": unit.config["dtype"], "name": name}
    return unit.replace(config={key: "linear"}), Unit(name, keras.layers.Activation, config)


def fuse_activations(graph: Graph) -> Graph:
    """Puts split activations back into their layers: the inverse of the split in `canonical`.

    An activation goes back if its name says that it was split off and every call of its layer feeds
    it, and nothing else.
    """
    readers = graph.consumers()
    followers: dict[Unit, set[Unit | None]] = {}
    for call in graph.calls:
        if _lookup(call.unit.cls) is not None:
            follower = _only_reader(call, readers, graph)
            name = call.unit.name + ACTIVATION_SUFFIX
            split = follower.unit if follower and follower.unit.name == name else None
            # A call that the split activation does not follow adds None: then nothing is fused.
            followers.setdefault(call.unit, set()).add(split)
    parts = {linear: unit for linear, (unit, *more) in followers.items() if unit and not more}
    calls = [
        dataclasses.replace(call, outputs=readers[call.outputs[0]][0].outputs)
        if call.unit in parts
        else call
        for call in graph.calls
        if call.unit not in parts.values()
    ]
    wholes = {
        linear: linear.replace(config={_lookup(linear.cls): activation.config["activation"]})
        for linear, activation in parts.items()
    }
    return replace_units(dataclasses.replace(graph, calls=tuple(calls)), wholes)


def _only_reader(call: Call, readers: Mapping[Value, list[Call]], graph: Graph) -> Call | None:
    (output,) = call.outputs
    found = readers.get(output, [])
    return found[0] if len(found) == 1 and output not in graph.output_values else None
