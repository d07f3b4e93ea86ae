"""The invariants of the design: on every named model and on generated graphs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers.generated import build_recipe, recipes
from helpers.invariants import ROUNDING, check_invariants
from helpers.models import BUILDERS, build, dtype_policy, error_between, perturb_maps, randomized
from helpers.regressions import REGRESSIONS
from hypothesis import HealthCheck, given, settings

import keras_branch_prune as kbp


@pytest.mark.parametrize("name", BUILDERS)
def test_branch_and_merge_are_exact(name):
    model = build(name)
    compact = check_invariants(model)
    assert compact.count_params() < model.count_params()


def test_models_on_inner_tensors_of_another_model():
    base = build("residual")
    features = [base.get_layer(name).output for name in ("add1", "reduce2")]
    x = keras.layers.Concatenate()(features)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = {"score": keras.layers.Dense(2, name="score")(x), "features": features[1]}
    model = keras.Model({"image": base.input}, outputs)
    compact = check_invariants(model)
    assert compact.get_layer("stem").filters == 4
    assert compact.get_layer("reduce2").filters == 6
    # And one that begins there, inside an outer model that calls it twice.
    part = keras.Model(base.get_layer("add1").output, base.get_layer("add2").output, name="part")
    image = keras.Input((8, 8, 3))
    x = part(part(keras.layers.Conv2D(8, 1, name="first")(image)))
    outer = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    compact = check_invariants(outer)
    assert compact.get_layer("part__restore2").filters == compact.get_layer("first").filters == 4


@pytest.mark.parametrize("name", ["conv_bn", "nested_twice", "flattened_branches", "normalized"])
def test_branched_model_survives_saving(name, tmp_path):
    model = build(name)
    branched = kbp.branch(model, kbp.plan(model, width=0.5))
    perturb_maps(branched)
    kbp.set_alpha(branched, 0.25)
    branched.save(tmp_path / "branched.keras")
    reloaded = keras.models.load_model(tmp_path / "branched.keras")
    assert kbp.get_alpha(reloaded) == 0.25
    assert error_between(branched, reloaded) == 0.0
    kbp.set_alpha(branched, 0)
    kbp.set_alpha(reloaded, 0)
    assert error_between(kbp.merge(branched), kbp.merge(reloaded)) == 0.0


DTYPES = {"float64": 1e-12, "float16": 1e-2, "bfloat16": 5e-2}


@pytest.mark.parametrize("name", ["conv_bn", "slices", "vision_transformer"])
@pytest.mark.parametrize("policy", [*DTYPES, "mixed_float16", "mixed_bfloat16"])
def test_other_dtypes(policy, name):
    with dtype_policy(policy):
        model = build(name)
        branched = kbp.branch(model, kbp.plan(model, width=0.5))
        # In float64 the products of split attention are summed in another order.
        assert error_between(model, branched) <= (1e-14 if policy == "float64" else 0.0)
        kbp.set_alpha(branched, 0)
        perturb_maps(branched)
        compact = kbp.merge(branched)
    assert error_between(branched, compact) <= DTYPES[policy.removeprefix("mixed_")]
    dtypes = [{layer.name: layer.dtype_policy.name for layer in m.layers} for m in (model, compact)]
    assert dtypes[0] == dtypes[1]
    assert [w.dtype for w in compact.weights] == [w.dtype for w in model.weights]
    assert any("16" in w.dtype for w in compact.weights) == (policy in ("float16", "bfloat16"))


def test_a_depthwise_convolution_that_is_left_with_a_single_channel():
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 1)(inputs)
    x = keras.layers.Conv2D(8, 3, groups=4)(x)
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    check_invariants(randomized(model), width=0.25)


_generated = settings(
    deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


@pytest.mark.parametrize("recipe", REGRESSIONS)
def test_graphs_that_once_failed(recipe):
    check_generated(build_recipe(recipe))


@settings(_generated, max_examples=12)
@given(recipes())
def test_generated_graphs(recipe):
    check_generated(build_recipe(recipe))


@pytest.mark.slow
@settings(_generated, max_examples=1000)
@given(recipes(max_steps=12))
def test_many_generated_graphs(recipe):
    check_generated(build_recipe(recipe))


def check_generated(model: keras.Model) -> None:
    """Checks the invariants, or that a model without prunable groups is refused with reasons."""
    if any(group.prunable for group in kbp.explain(model).groups):
        check_invariants(model)
    else:
        with pytest.raises(ValueError, match="no channel group that can be pruned"):
            kbp.plan(model, width=0.5)


@pytest.mark.slow
def test_vgg16_of_keras_applications():
    model = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=10)
    check_invariants(model, width=0.34375)


def test_zoo_vgg16_has_the_same_top_1_on_1000_inputs():
    model = randomized(kbp.zoo.vgg16(width=0.25, input_shape=(28, 28, 1)))
    branched = kbp.branch(model, kbp.plan(model, width=0.34375))
    kbp.set_alpha(branched, 0)
    perturb_maps(branched)
    compact = kbp.merge(branched)
    images = np.random.default_rng(0).uniform(size=(1000, 28, 28, 1)).astype("float32")
    expected, actual = (m.predict(images, verbose=0) for m in (branched, compact))
    assert np.abs(expected - actual).max() / np.abs(expected).max() <= ROUNDING
    assert np.array_equal(expected.argmax(-1), actual.argmax(-1))
    assert len(set(expected.argmax(-1))) > 1
    assert 0.115 < compact.count_params() / model.count_params() < 0.125
