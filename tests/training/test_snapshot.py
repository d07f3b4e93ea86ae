"""The state of a model, copied and put back."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.small_models import (
    assert_same_state,
    fit,
    plain_model,
    small_branched_model,
    weights_of,
)

import keras_branch_prune as kbp
from keras_branch_prune.training.snapshot import Snapshot, take_snapshot


def model_with_everything():
    """Seeds, statistics that move, and Adam's moments."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(4)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.5)(x)))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def test_training_from_a_restored_state_is_the_same_again():
    model = model_with_everything()
    fit(model, [], 1)
    snapshot, before = take_snapshot(model), weights_of(model)
    first, after = fit(model, [], 2), weights_of(model)
    assert not np.array_equal(before[0], after[0])
    snapshot.restore(model)
    assert_same_state(weights_of(model), before)
    assert fit(model, [], 2) == first
    assert_same_state(weights_of(model), after)


def test_a_snapshot_before_the_first_batch_holds_the_optimizer():
    model = model_with_everything()
    assert not model.optimizer.built
    snapshot = take_snapshot(model)
    assert len(snapshot.optimizers["optimizer"]) > 2
    first = fit(model, [], 2)
    snapshot.restore(model)
    assert fit(model, [], 2) == first


def test_restores_alpha():
    model = small_branched_model()
    kbp.set_alpha(model, 0.7)
    snapshot = take_snapshot(model)
    kbp.set_alpha(model, 0.2)
    snapshot.restore(model)
    assert kbp.get_alpha(model) == 0.7


def test_state_of_a_snapshot():
    model = small_branched_model()
    taken = take_snapshot(model)
    again = Snapshot.from_state(taken.get_state())
    assert_same_state(again.variables, taken.variables)
    assert again.optimizers.keys() == taken.optimizers.keys() == {"optimizer"}
    assert_same_state(again.optimizers["optimizer"], taken.optimizers["optimizer"])


def test_every_optimizer_that_is_built_is_taken_back():
    model = plain_model()
    model.second, model.third = keras.optimizers.Adam(0.5), keras.optimizers.Adam()
    model.second.build(model.trainable_variables)
    snapshot = take_snapshot(model)
    assert set(snapshot.optimizers) == {"optimizer", "second"}
    gradients = [np.ones(variable.shape) for variable in model.trainable_variables]
    for optimizer in (model.second, model.third):
        optimizer.apply(gradients, model.trainable_variables)
    snapshot.restore(model)
    for variable, value in zip(model.second.variables, snapshot.optimizers["second"], strict=True):
        np.testing.assert_array_equal(variable, value)
    assert int(model.second.iterations) == 0
    assert int(model.third.iterations) == 1


def test_another_structure():
    message = r"`model.variables` must be the 2 variables.*Received: 11 variables"
    with pytest.raises(ValueError, match=message):
        take_snapshot(plain_model()).restore(small_branched_model())
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    other.compile("sgd", "mse")
    before = weights_of(other)
    with pytest.raises(
        ValueError, match=r"Received: '.*kernel' of shape \(3, 1\) and float32, tak"
    ):
        take_snapshot(plain_model()).restore(other)
    assert_same_state(weights_of(other), before)
    with pytest.raises(ValueError, match=r"`model.optimizer.variables` must be the 2 variables"):
        take_snapshot(plain_model()).restore(plain_model(keras.optimizers.Adam()))


def test_needs_a_compiled_model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="plain")
    with pytest.raises(ValueError, match="`model` must be compiled. Received: 'plain', not compi"):
        take_snapshot(model)


def test_under_a_distribution_strategy():
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        model = plain_model(keras.optimizers.Adam())
    snapshot = take_snapshot(model)  # Outside of the scope, as in `fit`.
    first = fit(model, [], 2)
    snapshot.restore(model)
    assert fit(model, [], 2) == first
