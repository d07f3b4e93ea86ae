from __future__ import annotations

import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import BUILDERS, build, dtype_policy, error_between, perturb_maps, randomized
from keras import layers, ops

import keras_branch_prune as kbp
from keras_branch_prune.branching.reconstruction import Fitting, reconstruct
from keras_branch_prune.data.spool import Spool
from keras_branch_prune.graph.equivalence import draw_inputs

IMAGES = np.random.default_rng(1).normal(size=(64, 8, 8, 3)).astype(np.float32)


def branched_at_half(model: keras.Model) -> keras.Model:
    return kbp.branch(model, kbp.plan(model, width=0.5))


def calibration_for(model: keras.Model, samples: int = 48):
    inputs = draw_inputs(model, samples, seed=3)
    return list(inputs) if isinstance(inputs, tuple) else inputs


def blend_errors(branched: keras.Model, data) -> dict[str, float]:
    """Expand map → |o − p|² / |o|², with o as at α = 1 and p as at α = 0."""
    blends = [layer for layer in branched.layers if isinstance(layer, kbp.AlphaBlend)]
    alpha, sides = kbp.get_alpha(branched), []
    for side, value in ((1, 1), (2, 0)):
        kbp.set_alpha(branched, value)
        inside = keras.Model(branched.input, [blend.input[side] for blend in blends])
        sides.append(keras.tree.flatten(inside(data, training=False)))
    kbp.set_alpha(branched, alpha)
    sums: dict[str, np.ndarray] = {}
    for blend, original, pruned in zip(blends, *sides, strict=True):
        source = blend.input[2]._keras_history.operation
        if isinstance(source, kbp.ChannelMap):
            o, p = (ops.convert_to_numpy(ops.cast(x, "float64")) for x in (original, pruned))
            both = np.array([np.square(o - p).sum(), np.square(o).sum()])
            sums[source.name] = sums.get(source.name, 0.0) + both
    return {name: error / energy for name, (error, energy) in sums.items()}


def weights_of(model: keras.Model) -> list[np.ndarray]:
    return [np.array(weight) for weight in model.get_weights()]


def same_weights(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", BUILDERS)
def test_every_architecture(name):
    model = build(name)
    branched, data = branched_at_half(model), calibration_for(model)
    before, start = weights_of(model), blend_errors(branched, data)
    errors = reconstruct(branched, data)
    # What it says of its own two runs is what the model does.
    after = blend_errors(branched, data)
    assert errors == pytest.approx(after, rel=1e-3, abs=1e-5)
    assert sum(after.values()) < sum(start.values())
    assert same_weights(before, weights_of(model))
    assert kbp.get_alpha(branched) == 1
    assert error_between(model, branched) == 0.0
    kbp.set_alpha(branched, 0)
    kbp.merge(branched)


def dependent_model(k: int = 4, channels: int = 8) -> keras.Model:
    """Every region's channels are combinations of `k`, and nothing in it is nonlinear."""
    x = inputs = keras.Input((8, 8, 3))
    for name in ("a", "b"):
        x = layers.Conv2D(channels, 3, padding="same", name=name)(x)
        x = layers.AveragePooling2D(2)(layers.ZeroPadding2D(1)(x))
    x = layers.Dense(channels, name="c")(layers.Flatten()(x))
    model = randomized(keras.Model(inputs, layers.Dense(5, name="head")(x)))
    rng = np.random.default_rng(5)
    for name in "abc":
        layer, mix = model.get_layer(name), rng.normal(size=(k, channels))
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel[..., :k] @ mix, bias[:k] @ mix])
    return model


@pytest.mark.parametrize("ridge", [0.0, 1e-6])
def test_dependent_channels_are_reproduced_from_half_of_them(ridge):
    model = dependent_model()
    branched = branched_at_half(model)
    kbp.set_alpha(branched, 0)
    assert error_between(model, branched) > 0.1
    errors = reconstruct(branched, IMAGES, Fitting(ridge=ridge))
    assert max(errors.values()) < 1e-6
    assert error_between(model, branched) < 1e-4
    assert error_between(model, kbp.merge(branched)) < 1e-4


def in_batches():
    return (IMAGES[start : start + 32] for start in (0, 32))


SAME_DATA = {
    "files": lambda: IMAGES,
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices(IMAGES).batch(32),
    "generator": in_batches,
    "targets": lambda: (IMAGES, np.zeros(64)),
}


def reconstructed(data, memory_mib: float = 256):
    branched = branched_at_half(build("residual"))
    return reconstruct(branched, data, memory_mib=memory_mib), weights_of(branched)


@pytest.fixture(scope="module")
def from_an_array_in_memory():
    return reconstructed(IMAGES)


@pytest.mark.parametrize("name", SAME_DATA)
def test_the_result_depends_neither_on_files_nor_on_the_form_of_the_data(
    name, from_an_array_in_memory
):
    errors, weights = reconstructed(SAME_DATA[name](), 0 if name == "files" else 256)
    assert errors == from_an_array_in_memory[0]
    assert same_weights(weights, from_an_array_in_memory[1])


def test_nothing_that_was_passed_is_changed():
    images = IMAGES.copy()
    branched = branched_at_half(build("conv_bn"))
    kbp.set_alpha(branched, 0.5)
    original = {
        layer.name: weights_of(layer)
        for layer in branched.layers
        if not layer.name.endswith(("__reduce", "__expand", "__pruned"))
    }
    reconstruct(branched, images)
    assert np.array_equal(images, IMAGES)
    assert kbp.get_alpha(branched) == 0.5
    for name, weights in original.items():
        assert same_weights(weights, weights_of(branched.get_layer(name)))


@pytest.mark.parametrize("fails", [False, True])
def test_no_file_is_left(fails, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    branched = branched_at_half(build("conv_bn"))
    seen = []

    def batches():
        yield IMAGES[:32]
        seen.extend(path for path in tmp_path.rglob("*") if path.is_file())
        yield IMAGES[32:] if not fails else IMAGES[32:] * np.nan

    if fails:
        with pytest.raises(ValueError, match="`calibration` must be finite"):
            reconstruct(branched, batches(), memory_mib=0)
    else:
        reconstruct(branched, batches(), memory_mib=0)
    assert len(seen) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fitting", "changed"),
    [
        (Fitting(), {"reduce", "pruned", "expand"}),
        (Fitting(reduce=False), {"pruned", "expand"}),
        (Fitting(statistics=False), {"reduce", "expand"}),
        (Fitting(expand=False), {"reduce", "pruned"}),
    ],
)
def test_only_what_is_asked_for_is_fitted(fitting, changed):
    branched = branched_at_half(build("conv_bn"))
    before = {layer.name: weights_of(layer) for layer in branched.layers}
    errors = reconstruct(branched, IMAGES, fitting)
    assert bool(errors) == fitting.expand
    found = {
        layer.name.split("__")[-1]
        for layer in branched.layers
        if not same_weights(before[layer.name], weights_of(layer))
    }
    assert found == changed


@pytest.mark.parametrize("moved", [False, True])
def test_reduce_maps_are_fitted_to_what_they_made_of_the_original_channels(moved):
    """No bias and no new statistics: residuals are orthogonal to the inputs, means and all."""
    branched, images = branched_at_half(build("conv_bn")), IMAGES + 2.0
    if moved:
        perturb_maps(branched)
    reduce = branched.get_layer("conv2__reduce")
    inside = keras.Model(branched.input, [reduce.input, reduce.output])
    target = ops.convert_to_numpy(inside(images)[1]).reshape(-1, 3)
    reconstruct(branched, images, Fitting(ridge=1e-5, statistics=False))
    kbp.set_alpha(branched, 0)
    inputs, outputs = (ops.convert_to_numpy(x).reshape(len(target), -1) for x in inside(images))
    products = inputs.T @ target
    assert np.abs(inputs.T @ (target - outputs)).max() < 1e-3 * np.abs(products).max()


def test_all_positions_of_a_channel_get_the_bias_that_is_fitted():
    model = build("generator")
    branched = branched_at_half(model)
    reconstruct(branched, calibration_for(model))
    bias = branched.get_layer("rows__reduce").bias.numpy().reshape(8, 2)
    assert np.array_equal(bias, np.tile(bias[:1], (8, 1)))
    assert bias[0, 0] != bias[0, 1]


def test_few_tensors_are_held_at_a_time(monkeypatch):
    x = inputs = keras.Input((6,))
    for _ in range(12):
        x = layers.Dense(6, activation="tanh")(x)
    branched = branched_at_half(keras.Model(inputs, layers.Dense(2)(x)))
    held = []

    def append(spool, key, batch):
        append_to(spool, key, batch)
        held.append(len(spool._batches))

    append_to = Spool.append
    monkeypatch.setattr(Spool, "append", append)
    reconstruct(branched, np.ones((5, 6)))
    assert max(held) <= 6


def test_statistics_are_those_of_the_pruned_branch():
    branched = branched_at_half(build("conv_bn"))
    reconstruct(branched, IMAGES)
    kbp.set_alpha(branched, 0)
    norm = branched.get_layer("bn2__pruned")
    inputs = ops.convert_to_numpy(keras.Model(branched.input, norm.input)(IMAGES))
    assert np.allclose(norm.moving_mean, inputs.mean(axis=(0, 1, 2)), atol=1e-5)
    assert np.allclose(norm.moving_variance, inputs.var(axis=(0, 1, 2)), rtol=1e-1)


def test_twins_share_the_maps_that_are_fitted_to_both():
    images = [keras.Input((8, 8, 3), name=name) for name in ("left", "right")]
    x = tower_input = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="first")(x)
    x = layers.Conv2D(6, 3, activation="relu", name="second")(layers.BatchNormalization()(x))
    x = layers.Dense(4, name="embed")(layers.GlobalAveragePooling2D()(x))
    tower = keras.Model(tower_input, x, name="tower")
    joined = layers.Subtract()([tower(image) for image in images])
    model = randomized(keras.Model(images, layers.Dense(2)(joined)))
    branched, data = branched_at_half(model), [IMAGES, 3.0 * IMAGES[::-1]]
    start = blend_errors(branched, data)
    errors = reconstruct(branched, data)
    assert errors == pytest.approx(blend_errors(branched, data), rel=1e-3, abs=1e-5)
    assert all(errors[name] < start[name] for name in start)


def recurrent_block() -> keras.Model:
    """A block that is called on its own output: the uses of its maps wait for each other."""
    x = block_input = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="up")(x)
    block = keras.Model(block_input, layers.Conv2D(4, 1, name="down")(x), name="block")
    inputs = keras.Input((8, 8, 3))
    x = block(block(layers.Conv2D(4, 1, name="first")(inputs)))
    return randomized(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))


def test_maps_whose_uses_wait_for_each_other():
    model = recurrent_block()
    branched = branched_at_half(model)
    start = blend_errors(branched, IMAGES)
    errors = reconstruct(branched, IMAGES)
    assert errors.keys() == start.keys()
    assert sum(blend_errors(branched, IMAGES).values()) < sum(start.values())
    assert error_between(model, branched) == 0.0


def test_keras_masks_reach_the_layers():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 8, mask_zero=True, name="table")(tokens)
    x = layers.Dense(12, name="wide")(layers.LSTM(6, return_sequences=True)(x))
    x = layers.GlobalAveragePooling1D()(layers.Dense(5, name="narrow")(layers.ReLU()(x)))
    x = layers.Dense(8, activation="relu", name="last")(x)
    model = randomized(keras.Model(tokens, layers.Dense(3, name="head")(x)))
    data = np.random.default_rng(0).integers(0, 9, size=(40, 6))
    data[:, 3:] *= np.arange(40)[:, None] % 2
    branched = branched_at_half(model)
    errors = reconstruct(branched, data)
    assert errors == pytest.approx(blend_errors(branched, data), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [
        ("float64", 1e-9),
        ("float16", 0.1),
        ("bfloat16", 0.3),
        ("mixed_float16", 0.1),
        ("mixed_bfloat16", 0.3),
    ],
)
def test_other_dtypes(policy, tolerance):
    with dtype_policy(policy):
        model = build("conv_bn")
        branched = branched_at_half(model)
        start = blend_errors(branched, IMAGES)
        errors = reconstruct(branched, IMAGES.astype(np.float64), memory_mib=0)
        assert errors == pytest.approx(blend_errors(branched, IMAGES), rel=tolerance)
    assert sum(errors.values()) < sum(start.values())
    assert error_between(model, branched) == 0.0


def test_channels_that_are_dead():
    model = build("fused_activations")
    kernel, bias = model.get_layer("conv1").get_weights()
    model.get_layer("conv1").set_weights([kernel, bias - 100.0])
    branched = branched_at_half(model)
    errors = reconstruct(branched, IMAGES, Fitting(ridge=0.0))
    assert errors["conv2__expand"] == 0.0
    assert np.isfinite(list(errors.values())).all()


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
@pytest.mark.parametrize("name", ["conv_bn", "mlp"])
def test_a_single_sample(name, ridge):
    model = build(name)
    branched = branched_at_half(model)
    sample, others = calibration_for(model, samples=1), calibration_for(model)
    start = [sum(blend_errors(branched, data).values()) for data in (sample, others)]
    reconstruct(branched, sample, Fitting(ridge=ridge))
    end = [sum(blend_errors(branched, data).values()) for data in (sample, others)]
    assert end[0] < start[0]
    assert end[1] < 3 * start[1]


def test_a_single_row_does_not_make_a_variance_zero():
    inputs = keras.Input((6,))
    x = layers.BatchNormalization(name="norm")(layers.Dense(8)(inputs))
    model = randomized(keras.Model(inputs, layers.Dense(2)(x)))
    branched = branched_at_half(model)
    norm = branched.get_layer("norm__pruned")
    before = np.array(norm.moving_variance)
    reconstruct(branched, np.ones((1, 6)))
    assert np.allclose(norm.moving_variance, before * 10 / 11)


def test_fitting_a_second_time_changes_little():
    branched = branched_at_half(build("residual"))
    first = reconstruct(branched, IMAGES, Fitting(reduce=False))
    second = reconstruct(branched, IMAGES, Fitting(reduce=False))
    assert second == pytest.approx(first, rel=0.05, abs=1e-4)


def test_maps_that_training_has_moved():
    model = build("residual")
    branched = branched_at_half(model)
    perturb_maps(branched)
    start = sum(blend_errors(branched, IMAGES).values())
    assert sum(reconstruct(branched, IMAGES).values()) < start


def test_activations_that_overflow_are_named():
    with dtype_policy("float16"):
        model = build("conv_bn")
        model.get_layer("conv1").set_weights([model.get_layer("conv1").get_weights()[0] + 1e4])
        branched = branched_at_half(model)
        with pytest.raises(
            ValueError, match="lead to finite activations. Received: NaN or .* layer 'bn1__pruned'"
        ):
            reconstruct(branched, IMAGES)


def test_a_model_that_is_not_branched():
    with pytest.raises(ValueError, match="`branched` must be made by `branch`. Received: 'mlp'"):
        reconstruct(build("mlp"), np.zeros((3, 6)))


@pytest.mark.parametrize("ridge", [-1.0, float("inf"), float("nan"), "1"])
def test_the_ridge_must_be_a_number(ridge):
    with pytest.raises(ValueError, match="`ridge` must be a finite number ≥ 0. Received: ridge="):
        Fitting(ridge=ridge)
