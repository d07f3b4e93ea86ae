from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers.invariants import ROUNDING, check_invariants
from helpers.models import build, error_between, perturb_maps, randomized
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.graph.attention import fuse_attention
from keras_branch_prune.graph.building import build_model
from keras_branch_prune.graph.canonical import canonical
from keras_branch_prune.graph.equivalence import draw_inputs, relative_error


def groups_of(model):
    return {group.name: group for group in kbp.explain(model).groups}


def model_with(attention, width=8, **options):
    """An attention layer between two layers whose channels can be followed."""
    inputs = keras.Input((6, 4))
    x = layers.Dense(width, name="before")(inputs)
    x = attention(x, x, **options)
    scores = []
    if options.get("return_attention_scores"):
        x, *scores = x
    outputs = [layers.Dense(3, name="head")(x), *scores]
    return randomized(keras.Model(inputs, outputs if scores else outputs[0]))


def test_heads_and_value_channels_are_groups():
    groups = groups_of(build("vision_transformer"))
    heads, values = groups["attention1__query"], groups["attention1__value"]
    assert (heads.channels, heads.producers) == (4, ("attention1__query", "attention1__key"))
    assert (values.channels, values.producers) == (6, ("attention1__value",))
    assert heads.consumers == values.consumers == ("attention1",)
    assert heads.prunable
    assert values.prunable
    assert "attention2" in groups["patches"].producers


def test_pruned_attention_is_a_stock_layer_with_fewer_and_thinner_heads():
    compact = check_invariants(build("vision_transformer"))
    config = compact.get_layer("attention1").get_config()
    assert (config["num_heads"], config["key_dim"], config["value_dim"]) == (2, 3, 3)
    assert config["output_shape"] is None
    shapes = [tuple(weight.shape) for weight in compact.get_layer("attention1").weights]
    assert shapes == [(6, 2, 3), (2, 3), (6, 2, 3), (2, 3), (6, 2, 3), (2, 3), (2, 3, 6), (6,)]


@pytest.mark.parametrize(
    ("group", "expected"),
    [("attention1__query", (2, 6)), ("attention1__value", (4, 3))],
)
def test_heads_and_value_channels_are_pruned_independently(group, expected):
    model = build("vision_transformer")
    branched = kbp.branch(model, kbp.plan(model, width={group: 0.5}))
    kbp.set_alpha(branched, 0)
    perturb_maps(branched)
    compact = kbp.merge(branched)
    config = compact.get_layer("attention1").get_config()
    assert (config["num_heads"], config["value_dim"]) == expected
    assert error_between(branched, compact) <= ROUNDING


@pytest.mark.parametrize(
    ("name", "feed_forward", "attention"),
    [
        (
            "vision_transformer",
            {"patches": 6, "up1": 10, "down1": 6, "up2": 10, "down2": 6},
            {"attention1": (2, 3, 3), "attention2": (2, 3, 2)},
        ),
        (
            "decoder",
            {"remember": 5, "keys": 3, "up": 8, "down": 4, "head": 9},
            {"causal": (1, 4, 2), "cross": (2, 4, 1)},
        ),
    ],
)
def test_transformers_have_the_planned_widths(name, feed_forward, attention):
    compact = check_invariants(build(name))
    for layer, width in feed_forward.items():
        assert compact.get_layer(layer).get_weights()[0].shape[-1] == width
    for layer, sizes in attention.items():
        config = compact.get_layer(layer).get_config()
        assert (config["num_heads"], config["key_dim"], config["value_dim"]) == sizes


def test_the_pruned_branch_starts_with_the_kept_heads():
    model = build("vision_transformer")
    plan = kbp.plan(model, width={"attention1__query": 0.5})
    (heads,) = plan.kept.values()
    branched = kbp.branch(model, plan)
    kernel, _ = branched.get_layer("attention1__value__reduce").get_weights()
    channels = [head * 6 + channel for head in heads for channel in range(6)]
    assert np.array_equal(kernel, np.eye(24)[:, channels])


def test_the_output_width_follows_where_it_is_not_that_of_the_query():
    compact = check_invariants(build("decoder"))
    assert compact.get_layer("cross").get_config()["output_shape"] == (4,)
    assert compact.get_layer("causal").get_config()["output_shape"] is None
    model = model_with(layers.MultiHeadAttention(2, 4, output_shape=6, name="attention"))
    model = keras.Model(model.inputs, layers.Dense(2)(layers.Dense(5)(model.output)))
    assert check_invariants(model).get_layer("attention").get_config()["output_shape"] == (3,)


@pytest.mark.parametrize("training", [False, True])
def test_splitting_and_fusing_change_nothing_even_in_training(training):
    options = {"dropout": 0.4, "seed": 3}
    model = model_with(layers.MultiHeadAttention(2, 4, value_dim=3, **options))
    graph = canonical(model)
    inputs = draw_inputs(model, 3)
    expected = model(inputs, training=training)
    for rebuilt in (build_model(graph), build_model(fuse_attention(graph))):
        assert relative_error(expected, rebuilt(inputs, training=training)) == 0.0


def test_fused_attention_has_the_config_and_the_weights_of_the_original():
    model = build("decoder")
    rebuilt = build_model(fuse_attention(canonical(model)))
    for name in ("causal", "cross"):
        one, other = model.get_layer(name), rebuilt.get_layer(name)
        assert one.get_config() == other.get_config()
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            assert np.array_equal(a, b)


def test_shared_attention_stays_shared():
    inputs = keras.Input((6, 4))
    x = layers.Dense(8, name="before")(inputs)
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    x = layers.Add()([x, attention(x, x)])
    x = layers.Add()([x, attention(x, x)])
    model = randomized(keras.Model(inputs, layers.Dense(3, name="head")(x)))
    compact = check_invariants(model)
    assert len([layer for layer in compact.layers if "attention" in layer.name]) == 1


def test_attention_in_a_nested_model_that_is_called_twice():
    x = inner_inputs = keras.Input((6, 8))
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4, name="attention")(x, x)])
    inner = keras.Model(inner_inputs, x, name="encoder")
    inputs = keras.Input((6, 4))
    x = inner(inner(layers.Dense(8, name="before")(inputs)))
    model = randomized(keras.Model(inputs, layers.Dense(3, name="head")(x)))
    compact = check_invariants(model)
    assert compact.get_layer("encoder__attention").get_config()["num_heads"] == 1


def test_attention_at_a_model_output_keeps_its_width_and_name():
    inputs = keras.Input((6, 4))
    x = layers.Dense(8, name="before")(inputs)
    x = layers.MultiHeadAttention(2, 4, output_shape=3, name="attention")(x, x)
    compact = check_invariants(randomized(keras.Model(inputs, x)))
    assert compact.output_names == ["attention"]
    assert compact.output_shape == (None, 6, 3)


def test_scores_that_are_returned_keep_the_heads():
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    model = model_with(attention, return_attention_scores=True)
    groups = groups_of(model)
    for name in ("attention__query", "attention__value"):
        assert "(HeadAttention) returns its attention scores" in groups[name].reason
    assert groups["before"].prunable
    compact = check_invariants(model)
    assert compact.get_layer("attention").get_config()["num_heads"] == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_gate": True}, "has a gate"),
        ({"output_shape": (2, 4)}, "output_shape of several axes"),
        ({"kernel_constraint": "non_neg"}, "has constraints"),
    ],
)
def test_attention_that_is_not_split_is_a_barrier(options, reason):
    model = model_with(layers.MultiHeadAttention(2, 4, name="attention", **options))
    with pytest.raises(AssertionError, match=rf"'attention' \(MultiHeadAttention\) .*{reason}"):
        raise AssertionError(groups_of(model)["before"].reason)


def test_attention_along_several_axes_is_a_barrier():
    inputs = keras.Input((3, 4, 5))
    x = layers.Dense(6, name="before")(inputs)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    assert "attends along other axes" in groups_of(model)["before"].reason


def test_masked_attention_stays_whole_and_masks_reach_both_branches():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 8, mask_zero=True, name="table")(tokens)
    y = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    y = layers.Dense(6, activation="relu", name="hidden")(y)
    x = layers.GlobalAveragePooling1D(name="pool")(layers.Dense(4, name="out")(y))
    model = randomized(keras.Model(tokens, layers.Dense(2, name="head")(x)))
    groups = groups_of(model)
    assert "'attention' (MultiHeadAttention) may get a Keras mask" in groups["table"].reason
    expected = "'pool' (GlobalAveragePooling1D) is given a mask or another tensor"
    assert groups["out"].reason == expected
    assert groups["hidden"].prunable
    check_invariants(model)


@pytest.mark.parametrize("use_bias", [True, False])
def test_grouped_query_attention_reads_and_writes_the_residual_stream(use_bias):
    inputs, memory = keras.Input((6, 4)), keras.Input((5, 3))
    x = layers.Dense(8, name="before")(inputs)
    keys = layers.Dense(10, activation="relu", name="keys")(memory)
    values = layers.Dense(8, name="values")(memory)
    attention = layers.GroupQueryAttention(3, 4, 2, use_bias=use_bias, name="attention")
    x = layers.Add()([x, attention(x, values, keys)])
    model = randomized(keras.Model([inputs, memory], layers.Dense(2, name="head")(x)))
    groups = groups_of(model)
    assert groups["before"].producers == ("before", "values", "attention")
    assert groups["keys"].consumers == ("attention",)
    shapes = [tuple(w.shape) for w in check_invariants(model).get_layer("attention").weights]
    assert shapes[:: 2 if use_bias else 1] == [(4, 4, 3), (5, 2, 3), (4, 2, 3), (4, 3, 4)]


@pytest.mark.parametrize(
    ("options", "call_options", "reason"),
    [
        ({"use_gate": True}, {}, "has a gate"),
        ({}, {"return_attention_scores": True}, "returns its attention scores"),
    ],
)
def test_grouped_query_attention_that_is_a_barrier(options, call_options, reason):
    attention = layers.GroupQueryAttention(3, 4, 2, name="attention", **options)
    model = model_with(attention, **call_options)
    expected = f"'attention' (GroupedQueryAttention) {reason}"
    assert groups_of(model)["before"].reason == expected
    assert "attention" not in groups_of(model)


def test_a_branched_model_survives_saving(tmp_path):
    model = build("decoder")
    branched = kbp.branch(model, kbp.plan(model, width=0.5))
    perturb_maps(branched)
    branched.save(tmp_path / "branched.keras")
    reloaded = keras.models.load_model(tmp_path / "branched.keras")
    assert error_between(branched, reloaded) == 0.0
    kbp.set_alpha(branched, 0)
    kbp.set_alpha(reloaded, 0)
    assert error_between(kbp.merge(branched), kbp.merge(reloaded)) == 0.0


def test_a_branched_model_trains():
    model = build("vision_transformer")
    branched = kbp.branch(model, kbp.plan(model, width=0.5), train_original=False)
    kbp.set_alpha(branched, 0.5)
    branched.compile("adam", "mse")
    inputs = draw_inputs(branched, 4)
    branched.fit(inputs, np.zeros((4, 3)), epochs=2, verbose=0)
    kbp.set_alpha(branched, 0)
    compact = kbp.merge(branched)
    assert all(layer.trainable for layer in compact.layers)
    assert error_between(branched, compact) <= ROUNDING


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 5e-2), ("float64", 1e-12)])
def test_other_dtypes(policy, tolerance):
    keras.config.set_dtype_policy(policy)
    try:
        model = build("decoder")
        branched = kbp.branch(model, kbp.plan(model, width=0.5))
        assert error_between(model, branched) <= min(tolerance, 1e-14)
        kbp.set_alpha(branched, 0)
        perturb_maps(branched)
        assert error_between(branched, kbp.merge(branched)) <= tolerance
    finally:
        keras.config.set_dtype_policy("float32")
