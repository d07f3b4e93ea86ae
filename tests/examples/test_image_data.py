"""Loading of real images: digits, and tensorflow-datasets fed from local files."""

import gzip
from pathlib import Path

import fashion_mnist_files
import image_data
import numpy as np
import pytest
import requests
from helpers.tiny_fashion_mnist import write_tiny_fashion_mnist


@pytest.fixture
def idx_dir(tmp_path):
    return write_tiny_fashion_mnist(tmp_path / "fashion-mnist")


def load_tiny(tmp_path, idx_dir, seed=0, **kwargs):
    return image_data.load_images(
        "fashion_mnist", tmp_path / "data", seed, fashion_mnist_dir=idx_dir, **kwargs
    )


def check(data, counts, shape, classes=10):
    assert data.classes == classes
    assert data.image_shape == shape
    splits = (data.train, data.validation, data.test)
    assert tuple(len(split.labels) for split in splits) == counts
    for split in splits:
        assert split.images.dtype == np.float32
        assert split.images.shape == (len(split.labels), *shape)
        assert 0 <= split.images.min() < split.images.max() <= 1
        assert split.labels.dtype == np.int64
        assert set(split.labels) == set(range(classes))


def test_digits(tmp_path):
    data = image_data.load_images("digits", tmp_path, seed=0)
    check(data, (1257, 270, 270), (32, 32, 1))
    assert not list(tmp_path.iterdir())


def test_digits_keep_their_test_split_whatever_the_seed(tmp_path):
    first, again, other = (
        image_data.load_images("digits", tmp_path, seed, image_size=8) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.train.images, again.train.images)
    np.testing.assert_array_equal(first.test.images, other.test.images)
    assert not np.array_equal(first.validation.images, other.validation.images)


def test_digits_at_their_own_size_are_scikit_learns(tmp_path):
    from sklearn.datasets import load_digits

    data = image_data.load_images("digits", tmp_path, seed=0, image_size=8)
    originals = {image.tobytes() for image in (load_digits().images / 16).astype("float32")}
    assert all(image.tobytes() in originals for image in data.test.images)


def test_fashion_mnist_comes_from_local_files_through_tfds(tmp_path, idx_dir):
    data = load_tiny(tmp_path, idx_dir, seed=0)
    check(data, (68, 12, 20), (28, 28, 1))
    packed = gzip.decompress((idx_dir / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    written = {packed[start : start + 784] for start in range(0, len(packed), 784)}
    read = {np.round(image * 255).astype(np.uint8).tobytes() for image in data.test.images}
    assert read == written
    assert list((tmp_path / "data").glob("fashion_mnist_files/*/*.tfrecord*"))


def test_a_prepared_data_set_needs_its_files_no_more(tmp_path, idx_dir):
    first = load_tiny(tmp_path, idx_dir, image_size=32)
    check(first, (68, 12, 20), (32, 32, 1))
    for name in fashion_mnist_files.FILES:
        (idx_dir / name).write_bytes(b"")
    again = load_tiny(tmp_path, idx_dir, image_size=32)
    np.testing.assert_array_equal(first.validation.images, again.validation.images)


def test_an_unknown_data_set(tmp_path):
    with pytest.raises(ValueError, match=r"must be 'digits' or .* Received: name='no_such_set'"):
        image_data.load_images("no_such_set", tmp_path, seed=0)


def test_a_data_set_that_is_no_image_classification(tmp_path):
    with pytest.raises(ValueError, match=r"'imdb_reviews' is no image .*\['label', 'text'\]"):
        image_data.load_images("imdb_reviews", tmp_path, seed=0)


def test_images_of_several_sizes_need_one(tmp_path):
    with pytest.raises(ValueError, match=r"'cats_vs_dogs' differ in size, so `image_size` is need"):
        image_data.load_images("cats_vs_dogs", tmp_path, seed=0)
    with pytest.raises(ValueError, match=r"`image_size` must be positive .* image_size=0"):
        image_data.load_images("digits", tmp_path, seed=0, image_size=0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cifar10", "choose --dataset digits"), ("fashion_mnist", "dataset-fashion-mnist, or choose")],
)
def test_without_network_the_error_says_what_to_do(tmp_path, monkeypatch, name, hint):
    def refuse(*args, **kwargs):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr("tensorflow_datasets.core.download.downloader._open_url", refuse)
    with pytest.raises(ConnectionError, match=f"{name}' is not in .* could not be downl.*{hint}"):
        image_data.load_images(name, tmp_path, seed=0, fashion_mnist_dir=tmp_path)


@pytest.mark.slow
def test_the_whole_fashion_mnist_or_its_substitute(tmp_path, idx_dir):
    installed = Path(image_data.DEBIAN_FASHION_MNIST)
    real = all((installed / name).exists() for name in fashion_mnist_files.FILES)
    data = load_tiny(tmp_path, installed if real else idx_dir)
    counts = (51_000, 9_000, 10_000) if real else (68, 12, 20)
    check(data, counts, (28, 28, 1))
