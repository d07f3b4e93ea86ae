"""Learning rates per factor."""

from __future__ import annotations

import re

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import keras_branch_prune as kbp

FACTORS = {"original": 0.25, "maps": 0.5, "pruned": 2.0}


def branched_model():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6,))
    x = layers.BatchNormalization(name="norm")(layers.Dense(8, name="hidden")(x))
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.ReLU(name="relu")(x)))
    result = kbp.branch(model, kbp.plan(model, width=0.5))
    kbp.set_alpha(result, 0.5)
    return result


def data(size=16):
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 6)), rng.normal(size=(size, 3))


def kind(path):
    layer = path.split("/")[0]
    if layer.endswith(("__reduce", "__expand")):
        return "maps"
    return "pruned" if layer.endswith("__pruned") else "original"


def values(model):
    return {v.path: np.copy(v.numpy()) for v in model.trainable_variables}


def updates(optimizer, steps=1, **compile_options):
    """Returns path → change of every variable after some steps."""
    model = branched_model()
    model.compile(optimizer, "mse", **compile_options)
    before = values(model)
    model.fit(*data(16 * steps), batch_size=16, shuffle=False, verbose=0)
    return {path: value - before[path] for path, value in values(model).items()}


def test_which_variable_has_which_factor():
    model = branched_model()
    optimizer = kbp.ScaledRates(keras.optimizers.SGD())
    kinds = {kind(v.path) for v in model.trainable_variables}
    assert kinds == {"original", "maps", "pruned"}
    for v in model.trainable_variables:
        assert optimizer.factor_of(v) is getattr(optimizer, kind(v.path)), v.path


def test_a_user_layer_named_like_a_map_is_original():
    layer = layers.Dense(2, name="block__reduce")
    layer.build((None, 3))
    optimizer = kbp.ScaledRates(keras.optimizers.SGD())
    assert optimizer.factor_of(layer.kernel) is optimizer.original


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(0.01, momentum=0.9),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    ],
    ids=["momentum", "adamw"],
)
def test_updates_are_scaled(make, jit_compile):
    plain = updates(make(), jit_compile=jit_compile)
    scaled = updates(kbp.ScaledRates(make(), **FACTORS), jit_compile=jit_compile)
    for path, update in plain.items():
        expected = FACTORS[kind(path)] * update
        np.testing.assert_allclose(scaled[path], expected, rtol=1e-3, atol=1e-6, err_msg=path)
        assert np.any(update), path


def test_a_constant_factor_is_a_learning_rate():
    scaled = updates(
        kbp.ScaledRates(keras.optimizers.Adam(0.01), original=0.1, maps=0.1, pruned=0.1), steps=4
    )
    expected = updates(keras.optimizers.Adam(0.001), steps=4)
    for path, update in expected.items():
        np.testing.assert_allclose(scaled[path], update, rtol=0.02, atol=1e-5, err_msg=path)


def test_factors_of_one_change_nothing():
    plain = updates(keras.optimizers.Adam(0.01), steps=3)
    wrapped = updates(kbp.ScaledRates(keras.optimizers.Adam(0.01)), steps=3)
    for path, update in plain.items():
        np.testing.assert_array_equal(wrapped[path], update, err_msg=path)


def test_a_factor_of_one_is_exact():
    old = 1000 * np.random.default_rng(0).normal(size=100).astype("float32")
    variables = keras.Variable(old), keras.Variable(old)
    optimizers = kbp.ScaledRates(keras.optimizers.SGD(1.0)), keras.optimizers.SGD(1.0)
    for optimizer, variable in zip(optimizers, variables, strict=True):
        optimizer.apply([0.999 * old], [variable])
    np.testing.assert_array_equal(*variables)


def test_zero_freezes_without_retracing():
    model, traces = branched_model(), []

    def loss(y_true, y_pred):
        traces.append(1)
        return keras.losses.mean_squared_error(y_true, y_pred)

    optimizer = kbp.ScaledRates(keras.optimizers.AdamW(0.01, weight_decay=0.1))
    model.compile(optimizer, loss)
    model.fit(*data(), verbose=0)
    before, count = values(model), len(traces)
    optimizer.original.assign(0)
    model.fit(*data(), verbose=0)
    assert len(traces) == count
    for path, value in values(model).items():
        assert np.array_equal(value, before[path]) == (kind(path) == "original"), path


def test_a_diverged_update_of_a_frozen_variable_does_not_count():
    variable = keras.Variable([1.0, 2.0])
    optimizer = kbp.ScaledRates(keras.optimizers.SGD(1.0), original=0)
    optimizer.apply([np.array([np.inf, np.nan], "float32")], [variable])
    np.testing.assert_array_equal(variable, [1.0, 2.0])


def test_constraints_hold_after_scaling():
    layer = layers.Dense(1, kernel_constraint=keras.constraints.UnitNorm(axis=0))
    layer.build((None, 2))
    layer.kernel.assign([[1.0], [0.0]])
    optimizer = kbp.ScaledRates(keras.optimizers.SGD(1.0), original=0.5)
    optimizer.apply([np.array([[0.0], [-1.0]], "float32"), np.zeros(1, "float32")], layer.weights)
    assert np.linalg.norm(layer.kernel) == pytest.approx(1, abs=1e-6)
    assert layer.kernel.numpy()[1, 0] > 0.1


def test_learning_rate_callbacks_reach_the_inner_optimizer():
    model = branched_model()
    optimizer = kbp.ScaledRates(keras.optimizers.SGD(0.5))
    model.compile(optimizer, "mse")
    halve = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9)
    history = model.fit(*data(), epochs=4, verbose=0, callbacks=[halve]).history
    assert history["learning_rate"] == [0.5, 0.5, 0.25, 0.125]
    assert float(optimizer.inner_optimizer.learning_rate) == 0.0625
    assert int(optimizer.iterations) == 4


def test_saved_and_loaded_with_the_model(tmp_path):
    model = branched_model()
    optimizer = kbp.ScaledRates(keras.optimizers.Adam(0.01), **FACTORS)
    model.compile(optimizer, "mse")
    model.fit(*data(), verbose=0)
    optimizer.maps.assign(0.125)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == optimizer.get_config()
    for m in (model, loaded):
        m.fit(*data(), epochs=2, shuffle=False, verbose=0)
    for actual, expected in zip(loaded.optimizer.variables, optimizer.variables, strict=True):
        np.testing.assert_array_equal(actual, expected, err_msg=expected.path)
    for path, value in values(model).items():
        np.testing.assert_array_equal(values(loaded)[path], value, err_msg=path)


@pytest.mark.slow
def test_backup_restores_factors_and_moments(tmp_path):
    def train(epochs):
        model, backup = branched_model(), kbp.EpochBackup(tmp_path)
        model.compile(kbp.ScaledRates(keras.optimizers.Adam(0.01), maps=0.5), "mse")
        done = backup.restore(model)
        model.fit(*data(), epochs=epochs, initial_epoch=done, verbose=0, callbacks=[backup])
        return model

    model = train(2)
    model.optimizer.maps.assign(0.25)
    kbp.EpochBackup.on_epoch_end(_with_model(kbp.EpochBackup(tmp_path), model), 2)
    resumed = train(3)
    for actual, expected in zip(
        resumed.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(actual, expected, err_msg=expected.path)
    assert int(resumed.optimizer.iterations) == 2


def test_the_inner_state_is_saved_once(tmp_path):
    model = branched_model()
    model.compile(kbp.ScaledRates(keras.optimizers.Adam(0.01)), "mse")
    model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "model.weights.h5")
    with h5py.File(tmp_path / "model.weights.h5") as file:
        sizes = []
        file["optimizer"].visititems(
            lambda _, item: sizes.append(item.size) if isinstance(item, h5py.Dataset) else None
        )
    assert sum(sizes) == sum(int(np.prod(v.shape)) for v in model.optimizer.variables) - 2


def _with_model(callback, model):
    callback.set_model(model)
    return callback


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inner_optimizer": "adam"}, "`inner_optimizer` must be a keras.optimizers.Optimizer"),
        ({"original": -1}, "`original` must be a number in [0, inf]. Received: original=-1"),
        ({"maps": None}, "`maps` must be a number in [0, inf]. Received: maps=None"),
        ({"pruned": float("nan")}, "`pruned` must be a number in [0, inf]. Received: pruned=nan"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kbp.ScaledRates(**{"inner_optimizer": keras.optimizers.SGD(), **arguments})


def test_averages_are_refused():
    with pytest.raises(ValueError, match="must not average the weights"):
        kbp.ScaledRates(keras.optimizers.SGD(use_ema=True))
