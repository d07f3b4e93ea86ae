from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers.models import BUILDERS, build, dtype_policy, error_between

import keras_branch_prune as kbp


def merged_at_once(model: keras.Model, plan: kbp.PruningPlan) -> keras.Model:
    branched = kbp.branch(model, plan)
    kbp.set_alpha(branched, 0)
    return kbp.merge(branched, verify=False)


def assert_same(expected: keras.Model, actual: keras.Model) -> None:
    """Asserts equal layers and weights, bit for bit but for the sign of 0, and equal outputs."""
    layers = [[(x.name, x.get_config()) for x in m.layers] for m in (expected, actual)]
    assert layers[0] == layers[1]
    assert actual.name == expected.name
    for one, other in zip(expected.weights, actual.weights, strict=True):
        assert (one.dtype, one.trainable) == (other.dtype, other.trainable)
        assert np.array_equal(np.asarray(one), np.asarray(other)), one.path
    assert error_between(expected, actual) == 0.0


@pytest.mark.parametrize("name", BUILDERS)
def test_it_is_what_branch_and_merge_make_at_once(name):
    model = build(name)
    before = model.get_weights()
    plan = kbp.plan(model, width=0.5)
    assert_same(merged_at_once(model, plan), kbp.select(model, plan))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("policy", ["float64", "float16", "bfloat16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["slices", "vision_transformer"])
def test_other_dtypes(name, policy):
    with dtype_policy(policy):
        model = build(name)
        plan = kbp.plan(model, width=0.5)
        assert_same(merged_at_once(model, plan), kbp.select(model, plan))


def test_layers_that_were_frozen_stay_so():
    model = build("conv_bn")
    model.get_layer("conv1").trainable = False
    plan = kbp.plan(model, width=0.5)
    assert_same(merged_at_once(model, plan), kbp.select(model, plan))


def test_the_channels_of_the_plan_stay():
    model = build("mlp")
    plan = kbp.plan(model, width=0.5)
    compact = kbp.select(model, plan)
    (first, second), (kernel, bias) = plan.kept.values(), model.get_layer("hidden1").get_weights()
    np.testing.assert_array_equal(compact.get_layer("hidden1").kernel, kernel[:, first])
    np.testing.assert_array_equal(compact.get_layer("hidden1").bias, bias[list(first)])
    kernel = model.get_layer("hidden2").get_weights()[0]
    np.testing.assert_array_equal(
        compact.get_layer("hidden2").kernel, kernel[np.ix_(first, second)]
    )


def test_a_plan_of_another_model_is_refused():
    with pytest.raises(ValueError, match="`plan` must have been made for this model"):
        kbp.select(build("conv_bn"), kbp.plan(build("mlp"), width=0.5))
    with pytest.raises(TypeError, match="`plan` must be a PruningPlan. Received: float"):
        kbp.select(build("mlp"), 0.5)
    with pytest.raises(TypeError, match="`model` must be"):
        kbp.select("mlp.keras", kbp.plan(build("mlp"), width=0.5))


def test_a_model_that_cannot_be_branched_is_refused():
    model = build("mlp")
    plan = kbp.plan(model, width=0.5)
    with pytest.raises(ValueError, match="must not be branched already. Received: 'mlp'"):
        kbp.select(kbp.branch(model, plan), plan)
    layer = model.get_layer("hidden2")
    layer.set_weights([np.full_like(weight, np.nan) for weight in layer.get_weights()])
    with pytest.raises(ValueError, match="must have finite weights. Received: layer 'hidden2'"):
        kbp.select(model, plan)
