"""The three layers of a branched model."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_branch_prune.layers.alpha import Alpha
from keras_branch_prune.layers.blend import AlphaBlend
from keras_branch_prune.layers.channel_map import ChannelMap


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# Alpha


def test_alpha_state():
    layer = Alpha(frozen=["conv"])
    layer.build((None, 3))
    assert [weight.name for weight in layer.weights] == ["alpha", "step", "wait", "best"]
    assert [str(weight.dtype) for weight in layer.weights] == [
        "float32",
        "int32",
        "int32",
        "float32",
    ]
    assert not layer.trainable_weights
    assert [float(weight) for weight in layer.weights[:3]] == [1.0, 0.0, 0.0]
    assert np.isnan(float(layer.best))
    assert Alpha.from_config(layer.get_config()).frozen == ("conv",)


def test_alpha_emits_a_float32_scalar_whatever_the_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = Alpha()
        symbolic = layer(keras.Input((3,)))
    finally:
        keras.config.set_dtype_policy("float32")
    layer.alpha.assign(0.999)
    eager = layer(random(5, 3))
    assert (symbolic.shape, symbolic.dtype) == ((), "float32")
    assert (tuple(eager.shape), float(eager)) == ((), float(np.float32(0.999)))


# AlphaBlend


def blend(alpha, original, pruned):
    return ops.convert_to_numpy(AlphaBlend()([ops.convert_to_tensor(alpha), original, pruned]))


def test_blend_is_exact_at_both_ends():
    original, pruned = random(2, 4, 4, 3), random(2, 4, 4, 3, seed=1)
    np.testing.assert_array_equal(blend(np.float32(1), original, pruned), original)
    np.testing.assert_array_equal(blend(np.float32(0), original, pruned), pruned)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_blend_between(alpha):
    original, pruned = random(5, 3), random(5, 3, seed=1)
    expected = alpha * original + (1 - alpha) * pruned
    np.testing.assert_allclose(blend(np.float32(alpha), original, pruned), expected, atol=1e-6)


@pytest.mark.parametrize("diverged", [np.nan, np.inf, -np.inf])
def test_a_diverged_original_branch_is_dead_at_zero(diverged):
    original, pruned = random(2, 3), random(2, 3, seed=1)
    original[0, 0] = diverged
    np.testing.assert_array_equal(blend(np.float32(0), original, pruned), pruned)
    assert not np.isfinite(blend(np.float32(0.5), original, pruned)[0, 0])


def test_blend_in_bfloat16_keeps_a_small_share_of_the_pruned_branch():
    zeros, ones = ops.zeros((2, 3), "bfloat16"), ops.ones((2, 3), "bfloat16")
    result = AlphaBlend(dtype="mixed_bfloat16")([ops.convert_to_tensor(0.999), zeros, ones])
    assert keras.backend.standardize_dtype(result.dtype) == "bfloat16"
    np.testing.assert_allclose(ops.cast(result, "float32"), np.full((2, 3), 0.001), rtol=2**-8)


def test_blend_of_symbolic_tensors():
    alpha = Alpha()(keras.Input((3,)))
    branch = keras.Input((4, 4, 3), dtype="bfloat16")
    result = AlphaBlend()([alpha, branch, branch])
    assert (result.shape, result.dtype) == ((None, 4, 4, 3), "bfloat16")


@pytest.mark.parametrize("diverged", [np.nan, np.inf, -np.inf])
def test_a_diverged_pruned_branch_does_not_count_at_one(diverged):
    original, pruned = random(2, 3), random(2, 3, seed=1)
    pruned[0, 0] = diverged
    np.testing.assert_array_equal(blend(np.float32(1), original, pruned), original)


def test_blend_of_two_dtypes():
    original, pruned = ops.cast(random(2, 3), "bfloat16"), random(2, 3, seed=1)
    for alpha, expected in ((1, ops.cast(original, "float32")), (0, pruned)):
        result = AlphaBlend()([ops.convert_to_tensor(float(alpha)), original, pruned])
        np.testing.assert_array_equal(result, expected)
    inputs = keras.Input((3,), dtype="bfloat16"), keras.Input((3,))
    assert AlphaBlend()([Alpha()(inputs[1]), *inputs]).dtype == "float32"


# AlphaBlend, stochastic


def draws(layer, alpha, count=200, training=True):
    """Returns the share of the original tensor in every call."""
    inputs = [ops.convert_to_tensor(np.float32(alpha)), ops.ones((1, 1)), ops.zeros((1, 1))]
    return [float(layer(inputs, training=training)[0, 0]) for _ in range(count)]


def test_stochastic_blend_draws_one_branch():
    shares = draws(AlphaBlend(stochastic=True, seed=3), 0.7)
    assert set(shares) == {0.0, 1.0}
    assert np.mean(shares) == pytest.approx(0.7, abs=0.1)


def test_stochastic_blend_is_the_mean_in_inference():
    assert set(draws(AlphaBlend(stochastic=True), 0.75, 3, training=False)) == {0.75}


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_stochastic_blend_has_no_chance_at_the_ends(alpha):
    assert set(draws(AlphaBlend(stochastic=True), alpha)) == {alpha}


def test_stochastic_blend_is_seeded():
    first, again, other = (draws(AlphaBlend(stochastic=True, seed=n), 0.5) for n in (1, 1, 2))
    assert first == again
    assert first != other


def test_only_a_stochastic_blend_has_a_random_state():
    assert not AlphaBlend(seed=1).variables
    assert len(AlphaBlend(stochastic=True).variables) == 1
    assert not AlphaBlend(stochastic=True).weights


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stochastic": 1}, "`stochastic` must be a bool. Received: stochastic=1"),
        ({"seed": 0.5}, "`seed` must be an integer of at least 0. Received: seed=0.5"),
        ({"seed": -1}, "`seed` must be an integer of at least 0. Received: seed=-1"),
    ],
)
def test_wrong_blend(options, message):
    with pytest.raises(ValueError, match=message):
        AlphaBlend(**options)


# ChannelMap


def expected_map(layer, x):
    """The same map with NumPy, block by block, each position on its own."""
    x = np.moveaxis(np.asarray(x, "float64"), layer.axis, -1)
    parts, start = [], 0
    for (positions, inputs, _), kernel in zip(layer.blocks, layer.kernels, strict=True):
        for _ in range(positions):
            part = x[..., start : start + inputs]
            parts.append(np.einsum("...i,io->...o", part, np.asarray(kernel.numpy(), "float64")))
            start += inputs
    assert start == x.shape[-1]
    y = np.concatenate(parts, axis=-1)
    if layer.bias is not None:
        y = y + np.asarray(layer.bias.numpy(), "float64")
    return np.moveaxis(y, -1, layer.axis)


MAPS = {
    "reduce": ({"blocks": [(1, 6, 4)], "use_bias": True}, (6,)),
    "expand": ({"blocks": [(1, 4, 6)]}, (5, 5, 4)),
    "first": ({"blocks": [(1, 6, 4)], "axis": 1, "use_bias": True}, (6, 5, 7)),
    "first_1d": ({"blocks": [(1, 6, 4)], "axis": 1}, (6, 5)),
    "last_by_number": ({"blocks": [(1, 6, 4)], "axis": 3, "use_bias": True}, (5, 7, 6)),
    "blocks": ({"blocks": [(1, 2, 3), (1, 4, 1), (1, 1, 2)]}, (5, 7)),
    "blocks_first": ({"blocks": [(1, 2, 3), (1, 4, 1)], "axis": 1}, (6, 5, 3)),
    "positions": ({"blocks": [(9, 2, 3)]}, (18,)),
    "positions_and_blocks": ({"blocks": [(4, 2, 3), (1, 5, 2), (2, 3, 1)]}, (19,)),
    "positions_with_bias": ({"blocks": [(3, 2, 4), (1, 2, 3)], "use_bias": True}, (8,)),
    "positions_first": ({"blocks": [(2, 3, 2), (1, 2, 4)], "axis": 1}, (8, 3)),
}


@pytest.mark.parametrize(("config", "shape"), MAPS.values(), ids=MAPS)
def test_channel_map(config, shape):
    layer = ChannelMap(**config)
    x = random(3, *shape)
    layer.build(x.shape)
    if layer.bias is not None:
        layer.bias.assign(random(*layer.bias.shape, seed=2))
    y = layer(x)
    assert tuple(y.shape) == layer.compute_output_shape(x.shape)
    np.testing.assert_allclose(y, expected_map(layer, x), atol=1e-5)


@pytest.mark.parametrize(("config", "shape"), MAPS.values(), ids=MAPS)
def test_channel_map_in_a_model_of_dynamic_batch(config, shape, tmp_path):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, ChannelMap(name="map", **config)(inputs))
    assert model.output_shape == model.layers[-1].compute_output_shape((None, *shape))
    x = random(7, *shape)
    expected = expected_map(model.layers[-1], x)
    np.testing.assert_allclose(model.predict(x, batch_size=4, verbose=0), expected, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("map").get_config() == model.get_layer("map").get_config()
    np.testing.assert_array_equal(loaded(x), model(x))


def test_channel_map_of_dynamic_positions():
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, ChannelMap([(2, 2, 3)])(inputs))
    assert model.output_shape == (None, None, None, 6)
    x = random(2, 5, 3, 4)
    expected = expected_map(model.layers[-1], x)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)


def test_masks_are_handed_on():
    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    x = keras.layers.Embedding(4, 3, mask_zero=True)(tokens)
    mapped = ChannelMap([(1, 3, 3)])(x)
    blend = AlphaBlend()([keras.ops.ones(()), mapped, keras.ops.zeros((2, 3, 3))])
    for tensor in (mapped, blend):
        assert np.array_equal(tensor._keras_mask, tokens != 0)


# All three


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_saved_branched_model_is_the_same(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((8, 8, 3))
        original = keras.layers.Conv2D(6, 3, padding="same")(inputs)
        pruned = ChannelMap([(1, 6, 2)], use_bias=True)(original)
        pruned = ChannelMap([(1, 2, 6)])(keras.layers.ReLU()(pruned))
        outputs = AlphaBlend()([Alpha(name="alpha")(inputs), keras.layers.ReLU()(original), pruned])
        model = keras.Model(inputs, outputs)
    finally:
        keras.config.set_dtype_policy("float32")
    state = model.get_layer("alpha")
    for variable, value in zip(state.weights, [0.3, 7, 2, 1.5], strict=True):
        variable.assign(value)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [float(w) for w in loaded.get_layer("alpha").weights] == [
        float(w) for w in state.weights
    ]
    x = random(2, 8, 8, 3)
    np.testing.assert_array_equal(ops.cast(loaded(x), "float32"), ops.cast(model(x), "float32"))
