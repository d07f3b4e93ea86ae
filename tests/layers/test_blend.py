"""What a blend gives, at and between the ends of α, and all three layers together."""

import keras
import numpy as np
import pytest
from helpers.arrays import random
from keras import ops

from keras_branch_prune.layers.alpha import Alpha
from keras_branch_prune.layers.blend import AlphaBlend
from keras_branch_prune.layers.channel_map import ChannelMap


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


# Stochastic


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
