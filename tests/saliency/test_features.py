from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import build
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.analysis.groups import analyse
from keras_branch_prune.channels.cuts import side_by_side
from keras_branch_prune.channels.layouts import Block, Layout, Segment
from keras_branch_prune.data.calibration import BATCH_SIZE
from keras_branch_prune.graph.canonical import canonical
from keras_branch_prune.saliency.features import Features, measure_features
from keras_branch_prune.saliency.gradients import Gradients


def features(model: keras.Model, data, **options) -> Features:
    analysis = analyse(canonical(model))
    names = [group.name for group in analysis.groups if group.prunable]
    return measure_features(analysis, names, data, **options)


def samples(model: keras.Model, number: int, seed: int = 0) -> np.ndarray:
    shape = (number, *model.input_shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def at(layer: str, model: keras.Model, x: np.ndarray) -> np.ndarray:
    """What a layer makes of samples."""
    return keras.Model(model.inputs[0], model.get_layer(layer).output)(x).numpy()


def linear(units: int = 1) -> keras.Model:
    """A model without any activation, of which the first order is all there is."""
    x = inputs = keras.Input((6,))
    x = layers.Dense(5, name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(units, name="head")(x))
    for seed, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(seed).normal(size=weight.shape))
    return model


def same(one: Features, other: Features) -> bool:
    """Whether all sums are equal, and what they are sums of."""
    pairs = [(group, other.groups[name]) for name, group in one.groups.items()]
    arrays = [(vars(a)[field], vars(b)[field]) for a, b in pairs for field in vars(a)]
    return one.digest == other.digest and all(np.array_equal(a, b) for a, b in arrays)


A, B = Segment("a", 3), Segment("b", 2)
HEADS = Segment("heads", 2, inner=Segment("value", 3))


@pytest.mark.parametrize(
    ("layout", "group", "columns"),
    [
        (Layout(1, (Block(1, (A,)),)), "a", [[0, 1, 2]]),
        (Layout(1, (Block(1, (A, B)),)), "b", [[3, 4]]),
        (Layout(1, (Block(1, (A, B, A)),)), "a", [[0, 1, 2], [5, 6, 7]]),
        (Layout(1, (Block(3, (B,)),)), "b", [[0, 1], [2, 3], [4, 5]]),
        (Layout(1, (Block(2, (A, B)),)), "b", [[3, 4], [8, 9]]),
        (Layout(1, (Block(1, (B,)), Block(2, (A,)))), "a", [[2, 3, 4], [5, 6, 7]]),
        (Layout(1, (Block(1, (B,)),)).repeat(2), "b", [[0, 2], [1, 3]]),
        (Layout(1, (Block(1, (A, B)),)).repeat(2), "b", [[6, 8], [7, 9]]),
        (Layout(1, (Block(1, (HEADS,)),)), "heads", [[0, 3], [1, 4], [2, 5]]),
        (Layout(1, (Block(1, (HEADS,)),)), "value", [[0, 1, 2], [3, 4, 5]]),
        (Layout(1, (Block(1, (B, HEADS)),)), "value", [[2, 3, 4], [5, 6, 7]]),
    ],
)
def test_columns(layout, group, columns):
    assert layout.columns(group).tolist() == columns


def test_columns_say_what_kept_indices_say():
    layouts = [Layout(1, (Block(4, (A, HEADS)),)), Layout(1, (Block(1, (B, A)),)).repeat(3)]
    layout = side_by_side(1, layouts)
    rest = {"a": [], "b": [], "value": range(3), "heads": []}
    for group, channels in (("a", 3), ("b", 2), ("heads", 2)):
        for channel in range(channels):
            indices = layout.kept_indices({**rest, group: [channel]})
            assert sorted(layout.columns(group)[:, channel]) == indices.tolist()


def test_products_are_those_of_what_the_next_layer_reads():
    model = build("mlp")
    x = samples(model, 50)
    hidden = at("hidden1", model, x)
    found = features(model, x).groups["hidden1"]
    scale = 1 / np.square(hidden[:BATCH_SIZE]).mean()
    np.testing.assert_allclose(found.products, scale * hidden.T @ hidden / 50, rtol=1e-5)
    assert found.rows == 50


def test_positions_count_as_samples():
    model = build("conv_bn")
    x = samples(model, 10)
    found = features(model, x)
    pooled = at("pool2", model, x).reshape(-1, 6)
    products = pooled.T @ pooled / len(pooled) / np.square(pooled).mean()
    np.testing.assert_allclose(found.groups["conv2"].products, products, rtol=1e-4, atol=1e-6)
    assert {name: group.rows for name, group in found.groups.items()} == {
        "conv1": 10 * 4 * 4,
        "conv2": 10 * 2 * 2,
    }


def test_exits_count_alike_whatever_their_scale():
    x = inputs = keras.Input((4,))
    x = layers.Dense(3, name="a")(x)
    small = layers.Dense(1)(layers.Rescaling(1e-3)(x))
    model = keras.Model(inputs, layers.Add()([small, layers.Dense(1)(x)]))
    x = samples(model, 20)
    hidden = at("a", model, x)
    products = features(model, x).groups["a"].products
    expected = 2 * hidden.T @ hidden / 20 / np.square(hidden).mean()
    np.testing.assert_allclose(products, expected, rtol=1e-4, atol=1e-6)


def test_sensitivity_is_exact_for_one_linear_output():
    model, rng = linear(), np.random.default_rng(1)
    x = samples(model, 40)
    hidden = at("hidden", model, x)
    found = features(model, x).groups["hidden"]
    scale = 1 / np.square(hidden[:BATCH_SIZE]).mean()
    # An error that is independent of the sample: all moves add up.
    errors = rng.normal(size=(5, 5))
    covariance = errors @ errors.T
    kernel = model.get_layer("head").kernel.numpy()
    moved = 40 * (kernel.T @ covariance @ kernel).item() / np.square(model(x)).sum()
    assert np.trace(found.sensitivity @ covariance) * scale == pytest.approx(moved, rel=1e-5)


def test_random_signs_stand_for_many_outputs():
    model = linear(units=3)
    x = samples(model, 4000)
    found = features(model, x).groups["hidden"]
    kernel = model.get_layer("head").kernel.numpy()
    expected = kernel @ kernel.T
    actual = found.sensitivity / np.trace(found.sensitivity) * np.trace(expected)
    assert np.abs(actual - expected).max() < 0.1 * np.abs(expected).max()


def test_sensitivity_is_what_the_gradients_say():
    model = build("fused_activations")
    x = samples(model, 8)
    with tf.GradientTape() as tape:
        # The exit is what the head reads.
        tape.watch(hidden := tf.constant(at("pool", model, x)))
        output = model.get_layer("head")(hidden)
    slopes = tape.batch_jacobian(output, hidden).numpy()
    expected = np.einsum("soi,soj->ij", slopes, slopes)
    found = features(model, np.concatenate([x] * 400)).groups["conv2"].sensitivity
    expected *= np.trace(found) / np.trace(expected)
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_taylor_is_feature_times_gradient():
    model = linear()
    x, y = samples(model, 12), np.random.default_rng(2).normal(size=(12, 1)).astype(np.float32)
    hidden = at("hidden", model, x)
    slopes = 2 * (model(x).numpy() - y) * model.get_layer("head").kernel.numpy()[:, 0]
    for loss in ("mse", keras.losses.MeanSquaredError()):
        found = features(model, (x, y), loss=loss).groups["hidden"].taylor
        np.testing.assert_allclose(found, np.abs(hidden * slopes).sum(axis=0), rtol=1e-4)


def test_taylor_adds_up_positions_before_it_takes_absolute_values():
    x = inputs = keras.Input((4, 3))
    x = layers.Conv1D(2, 1, name="a")(x)
    model = keras.Model(inputs, layers.Dense(1, name="head")(layers.Flatten()(x)))
    model.get_layer("head").kernel.assign(np.arange(-4.0, 4.0)[:, None])
    x, y = samples(model, 5), np.zeros((5, 1), np.float32)
    hidden = at("a", model, x)
    slopes = 2 * model(x).numpy()[:, :, None] * np.arange(-4.0, 4.0).reshape(4, 2)
    expected = np.abs((hidden * slopes).sum(axis=1)).sum(axis=0)
    found = features(model, (x, y), loss="mse").groups["a"]
    np.testing.assert_allclose(found.taylor, expected, rtol=1e-4)
    assert not features(model, x).groups["a"].taylor.any()


def test_several_outputs_need_several_targets():
    inputs = keras.Input((4,))
    x = layers.Dense(3, name="a")(inputs)
    model = keras.Model(inputs, {"b": layers.Dense(2)(x), "c": layers.Dense(1)(x)})
    x = np.ones((6, 4), np.float32)
    y = {"b": np.zeros((6, 2)), "c": np.ones((6, 1))}
    assert features(model, (x, y), loss="mae").groups["a"].taylor.all()
    with pytest.raises(ValueError, match="targets for all 2 outputs. Received: 1"):
        features(model, (x, y["b"]), loss="mae")
    with pytest.raises(ValueError, match="where a criterion needs the loss. Received: inputs only"):
        features(model, x, loss="mae")


def test_the_form_of_the_data_does_not_matter():
    model = build("conv_bn")
    x = samples(model, 70)
    expected = features(model, x)
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(BATCH_SIZE)
    batches = (x[start : start + BATCH_SIZE] for start in range(0, 70, BATCH_SIZE))
    for data in (dataset, batches, (x, np.zeros(70)), [x]):
        assert same(expected, features(model, data))
    assert expected.samples == 70


def test_the_digest_is_that_of_the_inputs():
    model = build("mlp")
    x = samples(model, 40)
    changed = x.copy()
    changed[39, 5] += 1e-3
    assert features(model, x).digest == features(model, (x, np.zeros(40)), seed=5).digest
    assert features(model, x).digest != features(model, changed).digest


def test_the_seed_is_that_of_the_signs():
    model = build("conv_bn")
    x = samples(model, 20)
    assert same(features(model, x, seed=3), features(model, x, seed=3))
    assert not same(features(model, x, seed=3), features(model, x, seed=4))


def test_channels_first():
    def model(data_format: str) -> keras.Model:
        shape = (8, 8, 3) if data_format == "channels_last" else (3, 8, 8)
        x = inputs = keras.Input(shape)
        x = layers.Conv2D(5, 1, name="a", data_format=data_format)(x)
        pool = layers.GlobalAveragePooling2D(data_format=data_format)
        x = pool(layers.Conv2D(4, 1, name="b", data_format=data_format)(x))
        return keras.Model(inputs, layers.Dense(1, name="head")(x))

    last, first = model("channels_last"), model("channels_first")
    first.set_weights(last.get_weights())
    x = samples(last, 9)
    one, other = features(last, x), features(first, np.moveaxis(x, -1, 1))
    for name in "ab":
        for field in ("products", "sensitivity", "rows"):
            pair = (vars(found.groups[name])[field] for found in (one, other))
            np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-6)


def test_channels_that_nobody_reads_have_no_rows():
    model = build("slices")
    found = features(model, samples(model, 4)).groups["on"]
    assert found.rows == 0
    assert not found.products.any()


def test_one_function_is_traced_for_batches_of_all_sizes(monkeypatch):
    traces = []
    differentiate = Gradients._differentiate
    monkeypatch.setattr(
        Gradients, "_differentiate", lambda *a: traces.append(1) or differentiate(*a)
    )
    model = build("mlp")
    features(model, samples(model, 70))
    assert traces == [1]


def test_half_precision_is_summed_in_single():
    model = linear()
    half = keras.Sequential([keras.Input((6,)), layers.Dense(5, name="hidden", dtype="float16")])
    half.add(layers.Dense(1, name="head", dtype="float16"))
    half.set_weights(model.get_weights())
    # The squares of such features are beyond what half precision can hold.
    x = 300 * samples(model, 3000)
    one, other = (features(m, x).groups["hidden"] for m in (model, half))
    np.testing.assert_allclose(one.products, other.products, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(one.sensitivity, other.sensitivity, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("calibration", lambda m, b, x: kbp.plan(m, width=0.5, calibration=x)),
        ("refine", lambda m, b, x: kbp.refine(b, x)),
    ],
)
def test_other_backends_are_refused(name, use, monkeypatch):
    model = build("mlp")
    branched = kbp.branch(model, kbp.plan(model, width=0.5))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(NotImplementedError, match=f"`{name}` needs .* Received: .*'jax'"):
        use(model, branched, np.ones((64, 6), np.float32))
