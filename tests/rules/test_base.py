"""A rule of a user's layer, from the README too."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import pytest
from helpers.models import error_between, perturb_maps, randomized
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.rules import table as rules


@keras.saving.register_keras_serializable(package="tests")
class ChannelScale(layers.Layer):
    """A user's layer: one factor per channel, kept in the last axis of its weight."""

    def build(self, input_shape):
        self.factor = self.add_weight(shape=(1, input_shape[-1]), name="factor")

    def call(self, inputs):
        return inputs * self.factor


def scaled_model():
    x = inputs = keras.Input((5,))
    x = ChannelScale(name="scale")(layers.Dense(8, name="hidden")(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


class ChannelScaleRule:
    """A user's rule: any object with the methods `trace` and `narrow`."""

    def trace(self, call, layouts, tracker):
        (layout,) = layouts
        return layout

    def narrow(self, call, layout, kept):
        (factor,) = call.unit.arrays()
        return call.replace_unit(weights=(factor[:, layout.kept_indices(kept)],))


@pytest.mark.parametrize(
    "rule", [kbp.Channelwise(weight_axis=lambda axis: 1), ChannelScaleRule()], ids=["kind", "own"]
)
def test_a_registered_rule_makes_a_custom_layer_prunable(rule, monkeypatch):
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    kbp.register_rule(ChannelScale, rule)
    model = scaled_model()
    result = kbp.branch(model, kbp.plan(model, width=0.5))
    kbp.set_alpha(result, 0)
    compact = kbp.merge(result)
    assert compact.get_layer("scale").factor.shape == (1, 4)
    assert error_between(result, compact) <= 1e-6


def test_a_rule_that_ties_no_calls_gives_a_shared_layer_several_narrow_copies(monkeypatch):
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    kbp.register_rule(ChannelScale, ChannelScaleRule())
    keras.utils.clear_session()
    inputs, scale = keras.Input((5,)), ChannelScale(name="scale")
    x = [scale(layers.Dense(8, name=name)(inputs)) for name in "ab"]
    model = randomized(keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(x))))
    result = kbp.branch(model, kbp.plan(model, width={"a": 0.25, "b": 0.5}))
    kbp.set_alpha(result, 0)
    compact = kbp.merge(result)
    shapes = {layer.name: layer.factor.shape for layer in compact.layers if "scale" in layer.name}
    assert shapes == {"scale": (1, 2), "scale_1": (1, 4)}
    assert error_between(result, compact) <= 1e-6


def test_without_a_rule_the_custom_layer_is_a_barrier():
    (hidden, _head) = kbp.explain(scaled_model()).groups
    assert hidden.reason == "'scale' (ChannelScale) has no rule"


def test_the_custom_layer_of_the_readme(monkeypatch):
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    readme = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        if "register_rule(" in block
    ]
    names = {"keras": keras, "kbp": kbp}
    exec(code, names)
    x = inputs = keras.Input((5,))
    x = names["ChannelScale"](name="scale")(layers.Dense(8, name="hidden")(x))
    model = randomized(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    result = kbp.branch(model, kbp.plan(model, width=0.5))
    kbp.set_alpha(result, 0)
    perturb_maps(result)
    compact = kbp.merge(result)
    assert compact.get_layer("scale").factor.shape == (1, 4)
    assert error_between(result, compact) <= 1e-6


@pytest.mark.parametrize(("cls", "rule"), [("Dense", kbp.Channelwise()), (ChannelScale, object())])
def test_register_rule_checks_its_arguments(cls, rule):
    with pytest.raises(TypeError, match="`cls` must be|`rule` must have"):
        kbp.register_rule(cls, rule)
