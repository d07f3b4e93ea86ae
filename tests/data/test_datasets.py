from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_branch_prune.data.datasets import (
    check_data,
    is_endless,
    iterate,
    read_first_samples,
    require_samples,
)

X, Y = np.arange(12.0).reshape(6, 2), np.arange(6)


class Batches(keras.utils.PyDataset):
    """Three batches of two samples."""

    num_batches = 3

    def __getitem__(self, index):
        return X[2 * index : 2 * index + 2], Y[2 * index : 2 * index + 2]


class Endless(Batches):
    num_batches = None


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


@pytest.mark.parametrize("make", [dataset, Batches], ids=["tf.data", "PyDataset"])
@pytest.mark.parametrize("count", [1, 3, 6, 99])
def test_the_first_samples_are_arrays(make, count):
    images, labels = read_first_samples(make(), count)
    np.testing.assert_array_equal(images, X[:count])
    np.testing.assert_array_equal(labels, Y[:count])


def test_first_samples_without_targets_and_with_weights():
    (images,) = read_first_samples(tf.data.Dataset.from_tensor_slices(X).batch(2), 3)
    np.testing.assert_array_equal(images, X[:3])
    weighted = tf.data.Dataset.from_tensor_slices((X, Y, np.ones(6))).batch(2)
    assert len(read_first_samples(weighted, 3)) == 2


def test_no_more_is_read_than_needed():
    def batches():
        yield X[:4], Y[:4]
        pytest.fail("read on")

    assert len(read_first_samples(batches(), 4)[0]) == 4


def test_a_dataset_may_be_endless():
    assert not any(map(is_endless, (dataset(), Batches(), X)))
    assert all(map(is_endless, (dataset().repeat(), Endless())))


def test_all_batches_of_an_epoch():
    assert [len(x) for x, _ in iterate(Batches())] == [2, 2, 2]
    assert [len(x) for x, _ in iterate(dataset())] == [4, 2]


@pytest.mark.parametrize("data", [(X, Y), (X, Y, np.ones(6)), dataset(), Batches()])
def test_data_that_can_be_read_again(data):
    check_data("train", data)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (X, TypeError, "`train` must be .*Received: ndarray"),
        ((X,), TypeError, "Received: tuple"),
        (iter([(X, Y)]), TypeError, "Received: list_iterator"),
        (dataset().repeat(), ValueError, "`train` must be a dataset that ends"),
        (Endless(), ValueError, "`train` must be a dataset that ends"),
    ],
)
def test_data_that_cannot(data, error, message):
    with pytest.raises(error, match=message):
        check_data("train", data)


def test_arrays_have_as_many_samples():
    assert require_samples("data", {"a": X, "b": [Y]}) == 6
    for wrong in ([X, Y[:5]], [X[:0]]):
        with pytest.raises(ValueError, match="`data` must have as many samples in every array"):
            require_samples("data", wrong)
