from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_branch_prune as kbp

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(2.0, 3.0, size=(40, 5)).astype(np.float32)
TARGETS = RNG.normal(size=(40, 2)).astype(np.float32)


def model(momentum=0.99):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    x = layers.BatchNormalization(momentum=momentum, name="first")(inputs)
    x = layers.Dense(6, activation="relu", name="dense")(x)
    x = layers.BatchNormalization(momentum=momentum, name="second")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def statistics(model, name):
    layer = model.get_layer(name)
    return layer.moving_mean.numpy(), layer.moving_variance.numpy()


def test_statistics_become_the_means_over_the_batches():
    net = model()
    weights = net.get_layer("dense").get_weights()
    kbp.reestimate_batch_norm(net, INPUTS, batch_size=16)
    batches = [INPUTS[:16], INPUTS[16:32], INPUTS[32:]]
    shares = [0.4, 0.4, 0.2]
    mean, variance = statistics(net, "first")
    expected = sum(s * b.mean(0) for s, b in zip(shares, batches, strict=True))
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    expected = sum(s * b.var(0) for s, b in zip(shares, batches, strict=True))
    np.testing.assert_allclose(variance, expected, rtol=1e-4)
    hidden = [np.maximum(net.get_layer("dense")(normalized(net, b)), 0) for b in batches]
    expected = sum(s * h.mean(0) for s, h in zip(shares, hidden, strict=True))
    np.testing.assert_allclose(statistics(net, "second")[0], expected, rtol=1e-4, atol=1e-6)
    assert net.get_layer("first").momentum == 0.99
    for before, after in zip(weights, net.get_layer("dense").get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def normalized(net, batch):
    epsilon = net.get_layer("first").epsilon
    return (batch - batch.mean(0)) / np.sqrt(batch.var(0) + epsilon)


def test_frozen_layers_stay():
    net = model()
    net.get_layer("first").trainable = False
    kbp.reestimate_batch_norm(net, INPUTS)
    np.testing.assert_array_equal(statistics(net, "first")[0], np.zeros(5))
    assert np.abs(statistics(net, "second")[0]).max() > 0.01


def test_statistics_that_are_not_finite_are_refused_and_nothing_changes():
    net = model()
    kbp.reestimate_batch_norm(net, INPUTS)
    before = [w.copy() for w in net.get_weights()]
    with pytest.raises(ValueError, match="`inputs` must give finite statistics"):
        kbp.reestimate_batch_norm(net, np.full_like(INPUTS, np.nan))
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert net.get_layer("first").momentum == 0.99


def test_the_callback_leaves_the_statistics_of_a_diverged_model():
    net = model()
    net.compile(keras.optimizers.SGD(np.nan), "mse")
    net.fit(INPUTS, TARGETS, verbose=0, callbacks=[kbp.ReestimateBatchNorm(INPUTS)])
    assert np.isnan(net.get_layer("dense").get_weights()[0]).all()
    assert np.isfinite(statistics(net, "second")[0]).all()


def test_whatever_is_raised_the_statistics_are_put_back():
    net = model()
    kbp.reestimate_batch_norm(net, INPUTS)
    before = [w.copy() for w in net.get_weights()]
    with pytest.raises(ValueError, match="incompatible"):
        kbp.reestimate_batch_norm(net, INPUTS[:, :3])
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert net.get_layer("second").momentum == 0.99


def test_validation_sees_the_statistics_of_the_moment():
    net = model()
    net.compile(keras.optimizers.SGD(0.05), "mse")
    callback = kbp.ReestimateBatchNorm(INPUTS, batch_size=20)
    options = {"epochs": 1, "verbose": 0, "callbacks": [callback], "shuffle": False}
    logs = net.fit(INPUTS, TARGETS, validation_data=(INPUTS, TARGETS), **options).history
    expected = net.evaluate(INPUTS, TARGETS, verbose=0)
    assert logs["val_loss"][0] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        statistics(net, "first")[0], INPUTS.mean(0, dtype=np.float64), rtol=1e-4
    )


def test_without_validation_it_happens_at_the_end_of_the_epoch():
    net = model()
    net.compile("sgd", "mse")
    callback = kbp.ReestimateBatchNorm(INPUTS, batch_size=40)
    net.fit(INPUTS, TARGETS, epochs=2, verbose=0, callbacks=[callback])
    np.testing.assert_allclose(statistics(net, "first")[0], INPUTS.mean(0), rtol=1e-4)


def test_a_branched_model_infers_as_it_trains():
    net = model()
    kbp.reestimate_batch_norm(net, INPUTS)
    branched = kbp.branch(net, kbp.plan(net, width=0.5))
    kbp.set_alpha(branched, 0.5)
    for layer in branched.layers:
        if isinstance(layer, kbp.ChannelMap):
            layer.kernels[0].assign(3 * layer.kernels[0])
    training = branched(INPUTS, training=True).numpy()
    before = np.abs(branched(INPUTS, training=False).numpy() - training).max()
    kbp.reestimate_batch_norm(branched, INPUTS, batch_size=40)
    after = np.abs(branched(INPUTS, training=False).numpy() - training).max()
    assert after < 1e-4 < 0.1 < before


@pytest.mark.parametrize("batch_size", [0, 1.5, True])
def test_the_batch_size_is_checked(batch_size):
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        kbp.ReestimateBatchNorm(INPUTS, batch_size)
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        kbp.reestimate_batch_norm(model(), INPUTS, batch_size)


@pytest.mark.parametrize("inputs", [np.ones((0, 5)), {"a": np.ones((3, 5)), "b": np.ones((2, 5))}])
def test_numbers_of_samples_are_checked(inputs):
    with pytest.raises(ValueError, match="`inputs` must have as many samples in every array"):
        kbp.ReestimateBatchNorm(inputs)
