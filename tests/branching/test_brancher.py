from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.models import build, error_between, perturb_maps, randomized
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.rules import table as rules


def branched(name="conv_bn", **options):
    model = build(name)
    return kbp.branch(model, kbp.plan(model, width=0.5), **options)


def test_the_pruned_branch_starts_as_the_selected_channels():
    model = build("conv_bn")
    plan = kbp.plan(model, width=0.5)
    result = kbp.branch(model, plan)
    kept = list(plan.kept["conv1"])
    kernel, *_ = result.get_layer("conv1__reduce").get_weights()
    assert np.array_equal(kernel, np.eye(8)[:, kept])
    assert np.array_equal(result.get_layer("conv2__expand").get_weights()[0], np.eye(8)[kept])
    layers_of_both = (result.get_layer("bn1__pruned"), model.get_layer("bn1"))
    weights = (layer.get_weights() for layer in layers_of_both)
    for narrow, full in zip(*weights, strict=True):
        assert np.array_equal(narrow, full[kept])


def test_alpha_blends_linearly_between_the_branches():
    result = branched("mlp")
    perturb_maps(result)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    inner = keras.Model(result.inputs[0], result.get_layer("hidden2__blend").output)
    outputs = []
    for alpha in (1.0, 0.25, 0.0):
        kbp.set_alpha(result, alpha)
        outputs.append(inner.predict(x, verbose=0))
    assert np.allclose(outputs[1], 0.25 * outputs[0] + 0.75 * outputs[2], atol=1e-6)
    assert not np.allclose(outputs[0], outputs[2], atol=1e-3)


def test_frozen_original_is_trainable_again_after_the_merge():
    result = branched(train_original=False)
    trainable = {variable.path.split("/")[0] for variable in result.trainable_variables}
    assert trainable == {
        "conv1__reduce", "bn1__pruned", "conv2__expand",
        "conv2__reduce", "bn2__pruned", "head__expand",
    }  # fmt: skip
    kbp.set_alpha(result, 0)
    compact = kbp.merge(result)
    assert all(layer.trainable for layer in compact.layers)


def test_layers_that_the_user_froze_stay_frozen():
    model = build("conv_bn")
    model.get_layer("conv1").trainable = False
    result = kbp.branch(model, kbp.plan(model, width=0.5), train_original=False)
    kbp.set_alpha(result, 0)
    compact = kbp.merge(result)
    assert [layer.name for layer in compact.layers if not layer.trainable] == ["conv1"]


def test_every_part_trains():
    result = branched("residual")
    result.compile("sgd", "mse")
    before = [np.copy(v.numpy()) for v in result.trainable_variables]
    kbp.set_alpha(result, 0.5)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 8, 8, 3)), rng.normal(size=(16, 3))
    result.fit(x, y, verbose=0)
    still = [
        v.path
        for v, old in zip(result.trainable_variables, before, strict=True)
        if np.array_equal(v.numpy(), old)
    ]
    assert still == []


def test_training_at_alpha_zero_leaves_the_merge_exact():
    result = branched("conv_bn")
    result.compile("sgd", "mse")
    kbp.set_alpha(result, 0)
    rng = np.random.default_rng(0)
    result.fit(rng.normal(size=(16, 8, 8, 3)), rng.normal(size=(16, 4)), epochs=2, verbose=0)
    assert error_between(result, kbp.merge(result)) <= 1e-5


def test_stochastic_blends_draw_each_for_itself(tmp_path):
    result = branched("conv_bn", stochastic=True, seed=5)
    blends = [layer for layer in result.layers if isinstance(layer, kbp.AlphaBlend)]
    assert [blend.seed for blend in blends] == [5, 6]
    assert all(blend.stochastic for blend in blends)
    plain = branched("conv_bn")
    result.set_weights(plain.get_weights())
    for alpha in (1.0, 0.5, 0.0):
        kbp.set_alpha(result, alpha)
        kbp.set_alpha(plain, alpha)
        assert error_between(plain, result) == 0
    result.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for blend in blends:
        assert loaded.get_layer(blend.name).get_config() == blend.get_config()
    compact = kbp.merge(loaded)
    assert error_between(kbp.merge(plain), compact) == 0
    assert not any(isinstance(layer, kbp.AlphaBlend) for layer in compact.layers)


def test_stochastic_blends_train_to_alpha_zero():
    result = branched("mlp", stochastic=True)
    result.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    decay = kbp.AlphaStepDecay(0.5)
    result.fit(rng.normal(size=(16, 6)), rng.normal(size=(16, 3)), 4, 3, 0, callbacks=[decay])
    assert error_between(result, kbp.merge(result)) <= 1e-5


@pytest.mark.parametrize("options", [{"stochastic": "yes"}, {"seed": 1.5}])
def test_wrong_chance(options):
    with pytest.raises(ValueError, match=r"must be (a bool|an integer).*Received"):
        branched("mlp", **options)


def test_merge_refuses_alpha_above_zero():
    with pytest.raises(ValueError, match="must have α = 0 to be merged. Received: α = 1;"):
        kbp.merge(branched("mlp"))


def test_merge_refuses_a_model_that_is_not_branched():
    with pytest.raises(ValueError, match="not a branched model"):
        kbp.merge(build("mlp"))


def test_merge_notices_nan_weights():
    result = branched("mlp")
    kbp.set_alpha(result, 0)
    layer = result.get_layer("hidden1__reduce")
    layer.set_weights([np.full_like(w, np.nan) for w in layer.get_weights()])
    with pytest.raises(ValueError, match="differ by inf"):
        kbp.merge(result)


def test_branching_twice_is_refused():
    once = branched("mlp")
    with pytest.raises(ValueError, match="`model` must not be branched already. Received: 'mlp'"):
        kbp.plan(once, width=0.5)


def test_compact_model_can_be_pruned_again():
    result = branched("conv_bn")
    kbp.set_alpha(result, 0)
    compact = kbp.merge(result)
    again = kbp.branch(compact, kbp.plan(compact, width=0.5))
    kbp.set_alpha(again, 0)
    assert kbp.merge(again).get_layer("conv1").filters == 2


def test_a_plan_that_narrows_nothing_is_refused():
    model = build("mlp")
    with pytest.raises(ValueError, match="`plan` must narrow at least one group"):
        kbp.branch(model, kbp.plan(model, width=1.0))


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


def test_plan_applied_to_other_weights_of_the_same_structure():
    plan = kbp.plan(build("conv_bn"), width=0.5)
    other = build("conv_bn")
    other.get_layer("conv1").kernel.assign(other.get_layer("conv1").kernel * 2)
    assert error_between(other, kbp.branch(other, dataclasses.replace(plan))) == 0.0
