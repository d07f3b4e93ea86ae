from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from helpers.models import branched, build, error_between, perturb_maps

import keras_branch_prune as kbp


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


def test_branching_twice_is_refused():
    once = branched("mlp")
    with pytest.raises(ValueError, match="`model` must not be branched already. Received: 'mlp'"):
        kbp.plan(once, width=0.5)


def test_a_plan_that_narrows_nothing_is_refused():
    model = build("mlp")
    with pytest.raises(ValueError, match="`plan` must narrow at least one group"):
        kbp.branch(model, kbp.plan(model, width=1.0))


def test_plan_applied_to_other_weights_of_the_same_structure():
    plan = kbp.plan(build("conv_bn"), width=0.5)
    other = build("conv_bn")
    other.get_layer("conv1").kernel.assign(other.get_layer("conv1").kernel * 2)
    assert error_between(other, kbp.branch(other, dataclasses.replace(plan))) == 0.0
