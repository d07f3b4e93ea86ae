from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from helpers.models import build, dtype_policy

import keras_branch_prune as kbp


def test_l1_keeps_the_channels_with_the_largest_kernels():
    model = build("conv_bn")
    kernel = model.get_layer("conv1").kernel.numpy()
    kernel[..., [1, 4, 6]] *= 100
    model.get_layer("conv1").kernel.assign(kernel)
    plan = kbp.plan(model, width={"conv1": 3 / 8})
    assert plan.kept == {"conv1": (1, 4, 6)}


def test_random_saliency_depends_on_the_seed_alone():
    model = build("residual")
    plans = [kbp.plan(model, width=0.5, saliency="random", seed=seed) for seed in (0, 0, 1)]
    assert plans[0] == plans[1]
    assert plans[0].kept != plans[2].kept


def test_full_width_plans_nothing():
    assert kbp.plan(build("mlp"), width=1.0).groups == ()


def test_plan_survives_json(tmp_path):
    plan = kbp.plan(build("conv_bn"), width=0.5, round_to=2)
    assert kbp.PruningPlan.from_json(plan.to_json()) == plan
    assert hash(kbp.PruningPlan.from_json(plan.to_json())) == hash(plan)
    plan.save(tmp_path / "plan.json")
    assert kbp.PruningPlan.load(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 99, "groups": []}'])
def test_broken_json_is_refused(text):
    with pytest.raises(ValueError, match="must be the JSON of a PruningPlan"):
        kbp.PruningPlan.from_json(text)


def test_plan_prints_its_widths_and_how_it_was_made():
    text = str(kbp.plan(build("conv_bn"), width=0.5))
    assert "width=0.5" in text
    assert "saliency=l1" in text
    assert any(line.split() == ["conv1", "8", "4", "0.500"] for line in text.splitlines())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, r"`width` must be a number in \(0, 1\]. Received: width=0"),
        ({"width": 1.5}, "Received: width=1.5"),
        ({"width": "half"}, "Received: width='half'"),
        ({"width": float("nan")}, "Received: width=nan"),
        ({"width": {"conv1": 2}}, r"`width\['conv1'\]` must be"),
        ({"width": {"nothing": 0.5}}, "names no channel group. Received: 'nothing'"),
        ({"width": {"head": 0.5}}, "names group 'head', which stays: is a model output"),
        ({"width": 0.5, "round_to": 0}, "`round_to` must be an integer of at least 1"),
        ({"width": 0.5, "saliency": "l3"}, "`saliency` must be 'batch_norm', "),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        kbp.plan(build("conv_bn"), **options)


def test_a_part_is_scored_by_its_slice_of_every_producer():
    inputs = keras.Input((8, 8, 3))
    a, b, c = (keras.layers.Conv2D(n, 1, name=f"conv{n}")(inputs) for n in (2, 4, 6))
    x = keras.layers.Add()([keras.layers.Concatenate()([a, b]), c])
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    for name, sizes in (("conv2", (1, 3)), ("conv4", (5, 5, 1, 1)), ("conv6", (3, 0, 0, 1, 9, 0))):
        kernel = np.ones((1, 1, 3, 1)) * np.array(sizes)
        model.get_layer(name).kernel.assign(kernel)
    assert kbp.plan(model, width=0.5).kept == {"conv2": (0,), "conv4": (1, 2)}


def test_rounding_is_for_channels_and_heads_are_counted():
    x = inputs = keras.Input((5, 8))
    x = keras.layers.Dense(24, name="wide")(x)
    y = keras.layers.MultiHeadAttention(16, 2, value_dim=48, name="attention")(x, x)
    y = keras.layers.DepthwiseConv1D(3, depth_multiplier=2)(y)
    model = keras.Model(inputs, keras.layers.Dense(2)(y))
    plan = kbp.plan(model, width=0.5, round_to=16)
    widths = {group.name: group.width for group in plan.groups}
    assert widths == {"wide": 16, "attention__query": 8, "attention__value": 16, "attention": 16}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_must_be_finite(dtype):
    with dtype_policy(dtype):
        model = build("conv_bn")
    kernel = model.get_layer("conv2").kernel.numpy()
    kernel[0, 0, 0, 0] = np.nan
    model.get_layer("conv2").kernel.assign(kernel)
    with pytest.raises(ValueError, match="layer 'conv2' .* NaN or infinite"):
        kbp.plan(model, width=0.5)


def test_a_model_with_nothing_to_prune_is_refused_with_reasons():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="only")(inputs))
    with pytest.raises(ValueError, match="(?s)can be pruned.*only: is a model output"):
        kbp.plan(model, width=0.5)


def test_a_plan_for_another_model_is_refused():
    plan = kbp.plan(build("mlp"), width=0.5)
    with pytest.raises(ValueError, match="a plan for 'mlp'.* differ from those of 'conv_bn'"):
        kbp.branch(build("conv_bn"), plan)


@pytest.mark.parametrize("kept", [(), (0, 0), (3, 1), (0, 99), (-1, 2)])
def test_a_plan_with_impossible_channels_is_refused(kept):
    model = build("mlp")
    plan = kbp.plan(model, width=0.5)
    group = dataclasses.replace(plan.groups[0], kept=kept)
    broken = dataclasses.replace(plan, groups=(group, *plan.groups[1:]))
    with pytest.raises(ValueError, match="ascending channel indices"):
        kbp.branch(model, broken)


def test_the_plan_must_be_a_plan():
    with pytest.raises(TypeError, match="`plan` must be a PruningPlan. Received: float"):
        kbp.branch(build("mlp"), 0.5)
