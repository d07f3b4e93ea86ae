"""Real images for the examples: scikit-learn's digits, or any tensorflow-datasets classification.

Validation data are always a seeded part of the training data; the test data stay apart.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

# Where Debian's package dataset-fashion-mnist puts the four files.
DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"

VALIDATION_SHARE = 0.15
TEST_SHARE = 0.15
DIGITS_SIZE = 32


@dataclass(frozen=True)
class Split:
    """Images and labels of one purpose.

    Attributes:
        images: `(count, height, width, channels)`, float32 in [0, 1].
        labels: `(count,)`, int64 in [0, classes).
    """

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class ImageData:
    """A data set in three splits.

    Attributes:
        name: Its name, such as `"digits"`.
        classes: How many classes there are.
        train: What the weights are fitted to.
        validation: What decisions are made on.
        test: What is reported, once.
    """

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of one image, `(height, width, channels)`."""
        return self.train.images.shape[1:]


def load_images(
    name: str,
    data_dir: str | os.PathLike[str],
    seed: int,
    image_size: int | None = None,
    *,
    fashion_mnist_dir: str | os.PathLike[str] = DEBIAN_FASHION_MNIST,
) -> ImageData:
    """Loads a data set of labelled images.

    Args:
        name: `"digits"` (8 × 8 images of scikit-learn, enlarged; needs no network), or the name of
            a tensorflow-datasets image classification such as `"fashion_mnist"` or `"cifar10"`.
        data_dir: Where tensorflow-datasets keeps what it has downloaded and prepared.
        seed: Chooses the validation data.
        image_size: The height and width to resize the images to, in pixels. None keeps the data
            set's size, or 32 for digits.
        fashion_mnist_dir: A directory with the four files of Fashion-MNIST. If they are there,
            `"fashion_mnist"` is prepared from them instead of a download.

    Returns:
        The data in three splits.

    Raises:
        ValueError: There is no such data set, its images are not labelled with classes, or they
            differ in size and `image_size` is None.
        ConnectionError: The data set is neither prepared nor could it be downloaded.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(
            f"Argument `image_size` must be positive or None. Received: image_size={image_size}"
        )
    if name == "digits":
        return _load_digits(seed, image_size or DIGITS_SIZE)
    return _load_tfds(name, Path(data_dir), seed, image_size, Path(fashion_mnist_dir))


def _load_digits(seed: int, image_size: int) -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = tf.image.resize(digits.images[..., None] / 16.0, (image_size, image_size)).numpy()
    # The test data must not change with the seed, or results of two seeds do not compare.
    rest, test = _split(Split(images, digits.target.astype(np.int64)), TEST_SHARE, seed=0)
    train, validation = _split(rest, VALIDATION_SHARE / (1 - TEST_SHARE), seed)
    return ImageData("digits", 10, train, validation, test)


def _split(data: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Splits off a share of every class; returns the rest and that share."""
    from sklearn.model_selection import train_test_split

    rest, share_ = train_test_split(
        np.arange(len(data.labels)), test_size=share, random_state=seed, stratify=data.labels
    )
    return tuple(Split(data.images[part], data.labels[part]) for part in (rest, share_))


def _load_tfds(
    name: str, data_dir: Path, seed: int, image_size: int | None, fashion_mnist_dir: Path
) -> ImageData:
    builder = tfds_builder(name, data_dir, fashion_mnist_dir)
    image_key, label_key = _classification_keys(name, builder, image_size)
    prepare(name, builder)
    splits = {
        split: _read_split(builder, split, image_key, label_key, image_size)
        for split in ("train", "test")
        if split in builder.info.splits
    }
    if "train" not in splits:
        raise ValueError(f"Data set {name!r} has no split 'train': {list(builder.info.splits)}")
    train, test = splits["train"], splits.get("test")
    if test is None:
        train, test = _split(train, TEST_SHARE, seed=0)
    train, validation = _split(train, VALIDATION_SHARE, seed)
    classes = builder.info.features[label_key].num_classes
    return ImageData(name, classes, train, validation, test)


def tfds_builder(
    name: str,
    data_dir: Path,
    fashion_mnist_dir: Path = Path(DEBIAN_FASHION_MNIST),
    offline: str = "digits",
):
    """Returns the builder of a tensorflow-datasets data set.

    Args:
        name: Its name.
        data_dir: Where tensorflow-datasets keeps what it has downloaded and prepared.
        fashion_mnist_dir: Where the four files of Fashion-MNIST may be.
        offline: What a script takes instead of such a name.

    Raises:
        ValueError: There is no such data set.
    """
    # Imported here, since digits need none of this and the import takes seconds.
    import tensorflow_datasets as tfds

    if name == "fashion_mnist":
        import fashion_mnist_files as local

        if all((fashion_mnist_dir / file).exists() for file in local.FILES):
            return local.FashionMnistFiles(files_dir=fashion_mnist_dir, data_dir=data_dir)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise ValueError(
            f"Argument `name` must be {offline!r} or the name of a tensorflow-datasets data set. "
            f"Received: name={name!r}"
        ) from error


def _classification_keys(name: str, builder, image_size: int | None) -> tuple[str, str]:
    """Returns the names of a data set's image and label, which must be of those kinds."""
    import tensorflow_datasets as tfds

    features, keys = builder.info.features, builder.info.supervised_keys
    kinds = tuple(features[key] for key in keys) if keys and len(keys) == 2 else ()
    expected = (tfds.features.Image, tfds.features.ClassLabel)
    if len(kinds) != 2 or not all(map(isinstance, kinds, expected)):
        raise ValueError(
            f"Data set {name!r} is no image classification: expected one image and one class "
            f"label. Received features: {sorted(features)}"
        )
    if image_size is None and None in kinds[0].shape:
        raise ValueError(
            f"The images of {name!r} differ in size, so `image_size` is needed. "
            "Received: image_size=None"
        )
    return keys


def prepare(name: str, builder, offline: str = "digits") -> None:
    """Downloads and prepares a data set, unless that was done.

    Args:
        name: Its name.
        builder: Its builder.
        offline: The data set that a script has without a download.

    Raises:
        ConnectionError: It could not be downloaded.
    """
    import requests
    import tensorflow_datasets as tfds

    # Asking the cloud bucket for a prepared copy first only delays the error without network.
    tfds.disable_progress_bar()
    settings = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=settings)
    except (requests.RequestException, tfds.download.DownloadError) as error:
        hint = f"choose --dataset {offline}, which needs no download"
        if name == "fashion_mnist":
            hint = f"install Debian's package dataset-fashion-mnist, or {hint}"
        raise ConnectionError(
            f"Data set {name!r} is not in '{builder.data_dir}' and could not be downloaded: {hint}"
        ) from error


def _read_split(builder, split: str, image_key: str, label_key: str, size: int | None) -> Split:
    def resized(example):
        image = tf.cast(example[image_key], tf.float32) / 255.0
        if size is not None and image.shape[:2] != (size, size):
            image = tf.image.resize(image, (size, size))
        return image, example[label_key]

    dataset = builder.as_dataset(split=split).map(resized, tf.data.AUTOTUNE).batch(1024)
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return Split(np.concatenate(images), np.concatenate(labels))
