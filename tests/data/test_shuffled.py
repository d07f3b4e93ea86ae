from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

from keras_branch_prune.data.shuffled import ShuffledArrays


class Seen(keras.layers.Layer):
    """Notes the samples that it sees in training."""

    def __init__(self, seen):
        super().__init__()
        self.note = seen.append

    def call(self, inputs, training=False):
        if training:
            self.note(keras.ops.convert_to_numpy(inputs)[:, 0].tolist())
        return inputs


def order(initial_epoch, epochs):
    """Returns the samples in the order in which `fit` uses them."""
    seen = []
    model = keras.Sequential([keras.Input((1,)), Seen(seen), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    arrays = (np.arange(7.0)[:, None], np.zeros((7, 1)))
    data = ShuffledArrays(arrays, 3, seed=5, epoch=initial_epoch)
    model.fit(data, initial_epoch=initial_epoch, epochs=epochs, shuffle=False, verbose=0)
    return seen


def test_every_epoch_has_all_samples_in_an_order_of_its_own():
    batches = order(0, 3)
    assert [len(batch) for batch in batches] == [3, 3, 1] * 3
    epochs = [list(itertools.chain(*batches[start : start + 3])) for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_resumed_training_sees_the_same_order():
    assert order(0, 4)[6:] == order(2, 4)


def test_structures_and_sample_weights_stay_together():
    inputs = {"a": np.arange(5), "b": 10 * np.arange(5)}
    data = ShuffledArrays((inputs, 2 * np.arange(5), 3 * np.arange(5)), 2)
    for index in range(len(data)):
        x, y, weights = data[index]
        np.testing.assert_array_equal(x["b"], 10 * x["a"])
        np.testing.assert_array_equal(y, 2 * x["a"])
        np.testing.assert_array_equal(weights, 3 * x["a"])


@pytest.mark.parametrize("arrays", [(np.ones(3), np.ones(2)), (np.ones(0), np.ones(0))])
def test_numbers_of_samples_are_checked(arrays):
    with pytest.raises(ValueError, match=r"`train` must have as many samples .* Received: \["):
        ShuffledArrays(arrays, 2)
