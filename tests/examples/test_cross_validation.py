from __future__ import annotations

import numpy as np
import pytest
from cross_validation import stratified_folds, summarize
from image_data import ImageData, Split


def data():
    """Returns 24 images for folds, whose pixel is their number: two thirds of class 0."""
    numbers = np.arange(30, dtype=np.float32).reshape(-1, 1, 1, 1)
    labels = (np.arange(30) % 3 == 2).astype(np.int64)
    parts = (slice(0, 18), slice(18, 24), slice(24, 30))
    return ImageData("numbers", 2, *(Split(numbers[part], labels[part]) for part in parts))


def test_every_image_validates_once_and_test_images_stay_apart():
    folds = list(stratified_folds(data(), 4, seed=0))
    assert len(folds) == 4
    validated = np.concatenate([fold.validation.images.ravel() for fold in folds])
    np.testing.assert_array_equal(np.sort(validated), np.arange(24))
    for fold in folds:
        both = np.concatenate([fold.train.images.ravel(), fold.validation.images.ravel()])
        np.testing.assert_array_equal(np.sort(both), np.arange(24))
        np.testing.assert_array_equal(fold.test.images, data().test.images)


def test_folds_have_the_classes_as_all_images_and_their_own_labels():
    for fold in stratified_folds(data(), 4, seed=0):
        assert fold.validation.labels.sum() == 2
        for split in (fold.train, fold.validation):
            np.testing.assert_array_equal(split.labels, split.images.ravel() % 3 == 2)


def test_the_seed_chooses_the_folds():
    first, again, other = (
        [fold.validation.images.ravel().tolist() for fold in stratified_folds(data(), 4, seed)]
        for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("count", "message"), [(9, "Every class needs an image per fold"), (1, "k-fold")]
)
def test_the_count_is_checked(count, message):
    with pytest.raises(ValueError, match=message):
        next(stratified_folds(data(), count, seed=0))


def test_the_summary_is_by_model():
    folds = [{"a": {"m": 0.5, "n": 9}, "b": {"m": 1.0}}, {"a": {"m": 1.0, "n": 9}, "b": {"m": 1.0}}]
    found = summarize(folds, "m")
    assert found["a"] == {"mean": 0.75, "standard_deviation": pytest.approx(0.35355339)}
    assert found["b"] == {"mean": 1.0, "standard_deviation": 0.0}
