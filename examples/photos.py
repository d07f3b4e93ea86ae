"""Colour photos in three splits that share no photo, and random crops of them.

The photos that come with scikit-image and scikit-learn need no download. Each belongs to one split,
always the same one; the right view of scikit-image's stereo pair is left out, for it shows what the
left one shows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import image_data
import numpy as np
import tensorflow as tf

BUNDLED = "photos"
TRAIN = ("astronaut", "china", "hubble_deep_field", "immunohistochemistry", "motorcycle", "retina")
VALIDATION = ("chelsea", "rocket")
TEST = ("coffee", "flower")

# So many images of a tensorflow-datasets split are read at most: they are kept in memory.
MOST_IMAGES = 2000
SUFFIXES = (".jpg", ".jpeg", ".png")

Photos = Mapping[str, np.ndarray]
"""Photos by name: `(height, width, 3)`, uint8, each of its own size."""


@dataclass(frozen=True)
class PhotoSplits:
    """Photos for three purposes, none in two of them.

    Attributes:
        name: Where they are from.
        train: What the weights are fitted to.
        validation: What decisions are made on.
        test: What is reported, once.
    """

    name: str
    train: Photos
    validation: Photos
    test: Photos


def load_photos(
    dataset: str, crop_size: int, seed: int = 0, data_dir: str | os.PathLike[str] = "."
) -> PhotoSplits:
    """Loads photos from which crops of a size can be taken.

    Args:
        dataset: `"photos"` for those of scikit-image and scikit-learn; a folder of JPEG and PNG
            files, with those in its sub-folders; or the name of a tensorflow-datasets data set of
            images, of which at most 2000 of a split are read, and which are enlarged to the crop
            size if they are smaller.
        crop_size: Height and width of the crops, px.
        seed: Chooses the validation photos, but for `"photos"`. The test photos are always the
            same, so that results of two seeds compare.
        data_dir: Where tensorflow-datasets keeps what it has downloaded and prepared.

    Returns:
        The photos in three splits. Of a folder, 15 % are for validation and 15 % for the test, at
        least one each.

    Raises:
        ValueError: There is no such folder or data set, it has no images or too few, or one of
            them cannot be read or is smaller than a crop.
        ImportError: scikit-image or scikit-learn is not installed, and `"photos"` are asked for.
        ConnectionError: The data set is neither prepared nor could it be downloaded.
    """
    if dataset == BUNDLED:
        splits = _bundled()
    elif Path(dataset).expanduser().is_dir():
        splits = _split(dataset, _read_folder(Path(dataset).expanduser(), crop_size), seed)
    elif dataset.startswith(("/", ".", "~")):
        raise ValueError(f"There is no folder of images '{dataset}'")
    else:
        splits = _from_tfds(dataset, Path(data_dir), crop_size, seed)
    for photos in (splits.train, splits.validation, splits.test):
        sizes = {name: photo.shape[:2] for name, photo in photos.items()}
        _check_sizes(splits.name, sizes, crop_size)
    return splits


def random_crops(
    photos: Sequence[np.ndarray],
    count: int,
    size: int,
    seed: int | Sequence[int],
    *,
    mirror: bool = False,
    recolour: bool = False,
) -> np.ndarray:
    """Cuts random squares out of random photos.

    Args:
        photos: Photos `(height, width, 3)`, uint8, at least as large as a crop.
        count: How many crops.
        size: Their height and width, px.
        seed: One number or several; the same ones give the same crops.
        mirror: Whether to mirror half of them, left to right.
        recolour: Whether to shuffle their colours, for a few photos have few of them, and to let
            every second one be the negative of the one before it. Batch normalization takes the
            mean of a batch away, with which, in a small one, the absolute colours go; the mean of
            such pairs is always the same grey.

    Returns:
        Crops `(count, size, size, 3)`, float32 in [0, 1].
    """
    rng = np.random.default_rng(seed)
    crops = np.empty((count, size, size, 3), np.float32)
    for index, crop in enumerate(crops):
        if recolour and index % 2:
            crop[:] = 255 - crops[index - 1]
            continue
        photo = photos[rng.integers(len(photos))]
        top, left = (rng.integers(side - size + 1) for side in photo.shape[:2])
        crop[:] = photo[top : top + size, left : left + size]
        if mirror:
            crop[:] = crop[:, :: rng.choice((-1, 1))]
        if recolour:
            crop[:] = crop[..., rng.permutation(3)]
    return crops / np.float32(255)


def crop_batches(
    photos: Sequence[np.ndarray],
    count: int,
    size: int,
    batch_size: int,
    seed: int,
    epoch: tf.Variable,
    recolour: bool = False,
) -> tf.data.Dataset:
    """Makes batches of random crops, half of them mirrored, new ones in every epoch.

    Args:
        photos: Photos `(height, width, 3)`, uint8, at least as large as a crop.
        count: How many crops an epoch has.
        size: Their height and width, px.
        batch_size: How many crops a batch has; the last one may have fewer.
        seed: Decides the crops of every epoch.
        epoch: An int64 variable with the number of the epoch: `EpochNumber().variable`.
        recolour: Whether colours are shuffled and inverted, see `random_crops`.

    Returns:
        A data set of `(crops, crops)`. The same seed and epoch give the same batches.
    """
    batches = math.ceil(count / batch_size)

    def drawn(number, index):
        left = min(batch_size, count - index * batch_size)
        changes = {"mirror": True, "recolour": recolour}
        return random_crops(photos, int(left), size, (seed, number, index), **changes)

    def batch(index):
        crops = tf.numpy_function(drawn, [epoch.read_value(), index], tf.float32)
        crops = tf.ensure_shape(crops, (None, size, size, 3))
        return crops, crops

    # The variable is read when an epoch begins to be drawn, which is after it was set.
    dataset = tf.data.Dataset.range(batches).map(batch, tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _bundled() -> PhotoSplits:
    try:
        from skimage import data
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise ImportError(
            "the photos of scikit-image and scikit-learn need both: "
            "pip install keras_branch_prune[examples]"
        ) from error
    samples = load_sample_images()
    found = {
        Path(n).stem: image for n, image in zip(samples.filenames, samples.images, strict=True)
    }
    found["motorcycle"] = data.stereo_motorcycle()[0]

    def chosen(names: Sequence[str]) -> Photos:
        return {name: found[name] if name in found else getattr(data, name)() for name in names}

    return PhotoSplits(BUNDLED, chosen(TRAIN), chosen(VALIDATION), chosen(TEST))


def _read_folder(folder: Path, crop_size: int) -> Photos:
    from PIL import Image

    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    paths = {name: path for name, path in paths.items() if path.suffix.lower() in SUFFIXES}
    photos = {}
    for name, path in paths.items():
        try:
            with Image.open(path) as image:
                photos[name] = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"Cannot read the image '{path}': {error}") from error
    _check_sizes(str(folder), {name: photo.shape[:2] for name, photo in photos.items()}, crop_size)
    return photos


def _check_sizes(source: str, sizes: Mapping[str, Sequence[int]], crop_size: int) -> None:
    small = [f"{name} ({h} × {w})" for name, (h, w) in sizes.items() if min(h, w) < crop_size]
    if small:
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        raise ValueError(
            f"The images of '{source}' must be at least {crop_size} × {crop_size} px, the size of "
            f"a crop. Received: {', '.join(small[:5])}{more}"
        )


def _split(name: str, photos: Photos, seed: int, test: Photos | None = None) -> PhotoSplits:
    """Splits off photos for validation; before, unless there are some, those for the test."""
    if len(photos) < 3:
        raise ValueError(
            f"'{name}' must have at least 3 images, one for each of training, validation and test. "
            f"Received: {len(photos)}"
        )
    rest = photos
    if test is None:
        # The test photos must not change with the seed, or results of two seeds do not compare.
        rest, test = _part(photos, max(1, round(image_data.TEST_SHARE * len(photos))), seed=0)
    count = max(1, round(image_data.VALIDATION_SHARE * len(photos)))
    train, validation = _part(rest, count, seed)
    return PhotoSplits(name, train, validation, test)


def _part(photos: Photos, count: int, seed: int) -> tuple[Photos, Photos]:
    """Splits off so many photos; returns the rest and those."""
    names = sorted(photos)
    taken = set(np.random.default_rng(seed).permutation(len(names))[:count])
    parts: tuple[dict, dict] = {}, {}
    for index, name in enumerate(names):
        parts[index in taken][name] = photos[name]
    return parts


def _from_tfds(name: str, data_dir: Path, crop_size: int, seed: int) -> PhotoSplits:
    try:
        builder = image_data.tfds_builder(name, data_dir, offline=BUNDLED)
    except ValueError as error:
        raise ValueError(f"{error}; nor is there a folder of this name") from error
    key = _image_key(name, builder)
    image_data.prepare(name, builder, offline=BUNDLED)

    def read(split: str) -> Photos:
        examples = builder.as_dataset(split=split).take(MOST_IMAGES).as_numpy_iterator()
        return {f"{split} {n}": _enlarged(x[key], crop_size) for n, x in enumerate(examples)}

    splits = builder.info.splits
    if "train" not in splits:
        raise ValueError(f"Data set {name!r} has no split 'train': {list(splits)}")
    return _split(name, read("train"), seed, read("test") if "test" in splits else None)


def _image_key(name: str, builder: Any) -> str:
    """Returns the name of a data set's image."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    found = [key for key in features if isinstance(features[key], tfds.features.Image)]
    if not found:
        raise ValueError(f"Data set {name!r} has no images. Received features: {sorted(features)}")
    return "image" if "image" in found else found[0]


def _enlarged(image: np.ndarray, size: int) -> np.ndarray:
    """Returns an image in three colours whose shorter side is at least so many pixels."""
    image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
    scale = size / min(image.shape[:2])
    if scale <= 1:
        return image
    shape = [max(size, round(scale * side)) for side in image.shape[:2]]
    return np.clip(np.round(tf.image.resize(image, shape)), 0, 255).astype(np.uint8)
