"""What holds for every model: branch and merge are exact and change nothing else."""

from __future__ import annotations

import collections
import re

import keras
import numpy as np
from helpers.models import error_between, perturb_maps

import keras_branch_prune as kbp

ROUNDING = 1e-5


def check_invariants(model: keras.Model, width: float = 0.5) -> keras.Model:
    """Asserts that branch and merge are exact and change nothing; returns the compact model."""
    before = model.get_weights()
    plan = kbp.plan(model, width=width)
    branched = kbp.branch(model, plan)
    assert error_between(model, branched) == 0.0
    kbp.set_alpha(branched, 0)
    perturb_maps(branched)
    compact = kbp.merge(branched)
    assert error_between(branched, compact) <= ROUNDING
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert input_and_output_names(compact) == input_and_output_names(model)
    assert_widths(compact, model, plan)
    return compact


def input_and_output_names(model: keras.Model) -> tuple[list[str], list[str]]:
    sides = (model.inputs, model.outputs)
    return tuple([tensor._keras_history.operation.name for tensor in side] for side in sides)


def assert_widths(compact: keras.Model, model: keras.Model, plan: kbp.PruningPlan) -> None:
    """Asserts stock layers only, of exactly the planned widths."""
    widths = {group.name: group.width for group in plan.groups}
    expected, found = layer_widths(model, widths), layer_widths(compact, {})
    # A grouped convolution that is left with one channel per group produces no group of its own.
    found.update({name: compact.get_layer(name).filters for name in expected.keys() - found.keys()})
    # And a depthwise one that is left with a single channel has become an ordinary convolution.
    assert {name: found[name] for name in expected} == dict(expected)
    modules = {type(operation).__module__.split(".")[0] for operation in compact.operations}
    assert modules == {"keras"}


def layer_widths(model: keras.Model, widths: dict[str, int]) -> collections.Counter[str]:
    """The channels that every layer produces, with some groups at other widths."""
    found: collections.Counter[str] = collections.Counter()
    for group in kbp.explain(model).groups:
        for part in group.parts or group.producers:
            found[re.sub(r"\[\d+:\d+\]$", "", part)] += widths.get(group.name, group.channels)
    return found
