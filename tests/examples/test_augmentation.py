"""Augmentation is a function of the seed and the epoch."""

import gc

import augmentation
import keras
import numpy as np
import pytest
from augmentation import EpochNumber, augment

IMAGES = np.random.default_rng(0).uniform(0.1, 1, size=(10, 8, 8, 1)).astype("float32")
LABELS = np.arange(10)


def epochs(dataset, count=2):
    """Returns the images of some epochs, each sorted back into the order of the labels."""
    found = []
    for _ in range(count):
        images, labels = (np.concatenate(part) for part in zip(*dataset, strict=True))
        assert sorted(labels) == list(range(10))
        found.append((labels, images[np.argsort(labels)]))
    return found


def shifts_of(original, image, max_shift):
    padded = np.pad(original, ((max_shift, max_shift), (max_shift, max_shift), (0, 0)))
    size = len(image)
    return [
        (row, column)
        for row in range(2 * max_shift + 1)
        for column in range(2 * max_shift + 1)
        if np.array_equal(padded[row : row + size, column : column + size], image)
    ]


def test_every_image_is_a_shift_of_its_original():
    ((_, images),) = epochs(augment(IMAGES, LABELS, 4, seed=1), 1)
    shifts = [shifts_of(*pair, max_shift=2) for pair in zip(IMAGES, images, strict=True)]
    assert all(len(shift) == 1 for shift in shifts)
    assert len({shift[0] for shift in shifts}) > 3


def test_flips_mirror_some_images():
    ((_, images),) = epochs(augment(IMAGES, LABELS, 4, seed=1, max_shift=0, flip=True), 1)
    same = [np.array_equal(*pair) for pair in zip(images, IMAGES, strict=True)]
    mirrored = [np.array_equal(*pair) for pair in zip(images, IMAGES[:, :, ::-1], strict=True)]
    assert 0 < sum(same) < 10
    assert sum(same) + sum(mirrored) == 10


def test_epochs_differ_and_a_seed_repeats_them():
    dataset = augment(IMAGES, LABELS, 4, seed=1)
    gc.collect()  # the counter of iterations must live as long as the data set
    first, second = epochs(dataset)
    assert not np.array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])
    for epoch, repeated in zip(
        (first, second), epochs(augment(IMAGES, LABELS, 4, seed=1)), strict=True
    ):
        np.testing.assert_array_equal(epoch[0], repeated[0])
        np.testing.assert_array_equal(epoch[1], repeated[1])
    ((_, other),) = epochs(augment(IMAGES, LABELS, 4, seed=2), 1)
    assert not np.array_equal(first[1], other)


def test_a_given_epoch_decides():
    number = EpochNumber()
    counted = epochs(augment(IMAGES, LABELS, 4, seed=1), 3)
    dataset = augment(IMAGES, LABELS, 4, seed=1, epoch=number.variable)
    number.on_epoch_begin(2)
    np.testing.assert_array_equal(epochs(dataset, 1)[0][1], counted[2][1])
    number.on_epoch_begin(0)
    np.testing.assert_array_equal(epochs(dataset, 1)[0][1], counted[0][1])


def test_a_resumed_fit_ends_with_the_same_weights():
    def fit(model, **epochs):
        number = EpochNumber()
        dataset = augment(IMAGES, LABELS, 4, seed=1, epoch=number.variable)
        model.fit(dataset, callbacks=[number], shuffle=False, verbose=0, **epochs)

    def build():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
        model.add(keras.layers.Dense(10))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    whole, resumed = build(), build()
    fit(whole, epochs=4)
    fit(resumed, epochs=2)
    fit(resumed, initial_epoch=2, epochs=4)
    for weight, expected in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_the_length_and_the_shapes_are_known():
    dataset = augment(IMAGES, LABELS, 4, seed=1)
    assert len(dataset) == 3
    assert dataset.element_spec[0].shape[1:] == (8, 8, 1)


@pytest.mark.parametrize(
    "wrong", [{"labels": LABELS[:3]}, {"batch_size": 0}, {"max_shift": -1}], ids=str
)
def test_wrong_arguments(wrong):
    arguments = {"images": IMAGES, "labels": LABELS, "batch_size": 4, "seed": 1, **wrong}
    with pytest.raises(ValueError, match=r"Expected as many images as labels.* Received: 10 im"):
        augmentation.augment(**arguments)
