"""Photos in splits, and crops of them."""

from __future__ import annotations

import itertools
import re

import image_data
import numpy as np
import photos
import pytest
from augmentation import EpochNumber
from helpers.tiny_fashion_mnist import write_tiny_fashion_mnist
from PIL import Image


def write_photos(folder, count=20, size=(24, 20)):
    """Writes photos, each of a colour of its own, as PNG and JPEG files."""
    (folder / "more").mkdir(parents=True)
    for number in range(count):
        name = f"more/{number:02}.JPG" if number % 2 else f"{number:02}.png"
        Image.new("RGB", size, (10 * number, 0, 255)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def parts(splits):
    return splits.train, splits.validation, splits.test


def disjoint(splits):
    names = [set(part) for part in parts(splits)]
    contents = [{photo.tobytes() for photo in part.values()} for part in parts(splits)]
    return all(not a & b for kind in (names, contents) for a, b in itertools.combinations(kind, 2))


def test_the_photos_of_the_packages_are_in_one_split_each():
    splits = photos.load_photos("photos", 128)
    assert [len(part) for part in parts(splits)] == [6, 2, 2]
    assert disjoint(splits)
    for part in parts(splits):
        for photo in part.values():
            assert photo.dtype == np.uint8
            assert photo.ndim == 3
            assert photo.shape[2] == 3
            assert min(photo.shape[:2]) >= 300
            # In colour: the channels are not the same.
            assert np.abs(photo[..., 0].astype(int) - photo[..., 2]).mean() > 1


def test_the_photos_of_the_packages_do_not_depend_on_the_seed():
    first, second = (photos.load_photos("photos", 128, seed) for seed in (0, 1))
    assert [list(part) for part in parts(first)] == [list(part) for part in parts(second)]


def test_a_photo_smaller_than_a_crop_is_named():
    message = "at least 304 × 304 px, the size of a crop. Received: chelsea (300 × 451)"
    with pytest.raises(ValueError, match=re.escape(message)):
        photos.load_photos("photos", 304)


def test_a_folder_is_split_by_file(tmp_path):
    folder = write_photos(tmp_path / "mine")
    splits = photos.load_photos(str(folder), 16)
    assert [len(part) for part in parts(splits)] == [14, 3, 3]
    assert disjoint(splits)
    names = {name for part in parts(splits) for name in part}
    assert {"00.png", "more/01.JPG"} <= names
    for part in parts(splits):
        for name, photo in part.items():
            assert photo.shape == (20, 24, 3)
            red = 10 * int(name.removeprefix("more/")[:2])
            assert abs(int(photo[0, 0, 0]) - red) <= 3


def test_the_seed_chooses_the_validation_photos_and_never_those_for_the_test(tmp_path):
    folder = str(write_photos(tmp_path / "mine"))
    first, again, other = (photos.load_photos(folder, 16, seed) for seed in (1, 1, 2))
    assert list(first.validation) == list(again.validation) != list(other.validation)
    assert list(first.test) == list(other.test)


@pytest.mark.parametrize("missing", ["/no/such/folder", "./none", "~/no such folder"])
def test_no_such_folder(missing):
    with pytest.raises(ValueError, match=f"There is no folder of images '{missing}'"):
        photos.load_photos(missing, 16)


def test_too_few_images_to_split(tmp_path):
    folder = write_photos(tmp_path / "two", count=2)
    with pytest.raises(ValueError, match="two' must have at least 3 images, .* Received: 2"):
        photos.load_photos(str(folder), 16)
    three = photos.load_photos(str(write_photos(tmp_path / "three", count=3)), 16)
    assert [len(part) for part in parts(three)] == [1, 1, 1]


def test_images_smaller_than_a_crop_are_named(tmp_path):
    folder = write_photos(tmp_path / "mine")
    Image.new("RGB", (15, 40)).save(folder / "thin.png")
    message = "at least 16 × 16 px, the size of a crop. Received: thin.png (40 × 15)"
    with pytest.raises(ValueError, match=re.escape(message)):
        photos.load_photos(str(folder), 16)
    with pytest.raises(ValueError, match=r"\(20 × 24\) and 16 more"):
        photos.load_photos(str(folder), 21)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_an_unreadable_image_is_named(tmp_path, content):
    folder = write_photos(tmp_path / "mine")
    (folder / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match="Cannot read the image '.*broken.png'"):
        photos.load_photos(str(folder), 16)


def test_grey_and_transparent_images_become_colour_images(tmp_path):
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (20, 20), 7).save(tmp_path / f"{mode}.png")
    splits = photos.load_photos(str(tmp_path), 16)
    assert {p.shape for part in parts(splits) for p in part.values()} == {(20, 20, 3)}


def test_a_tensorflow_data_set_is_enlarged_to_the_crops(tmp_path, monkeypatch):
    files = write_tiny_fashion_mnist(tmp_path / "files")
    # The default is the folder of Debian's package, which may hold the real one.
    defaults = (files, *image_data.tfds_builder.__defaults__[1:])
    monkeypatch.setattr(image_data.tfds_builder, "__defaults__", defaults)
    monkeypatch.setattr(photos, "MOST_IMAGES", 40)
    splits = photos.load_photos("fashion_mnist", 48, data_dir=tmp_path / "data")
    assert [len(part) for part in parts(splits)] == [34, 6, 20]
    assert disjoint(splits)
    photo = splits.test["test 0"]
    assert photo.shape == (48, 48, 3)
    assert photo.dtype == np.uint8
    assert np.array_equal(photo[..., 0], photo[..., 2])


def test_a_tensorflow_data_set_that_is_not_there_or_has_no_images(tmp_path):
    message = "must be 'photos' or the name of .*'no_such_set'; nor is there a folder of this"
    with pytest.raises(ValueError, match=message):
        photos.load_photos("no_such_set", 16, data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"'imdb_reviews' has no images\. .*\['label', 'text'\]"):
        photos.load_photos("imdb_reviews", 16, data_dir=tmp_path)


def ramps():
    """Two photos that say of every pixel where it is from."""
    return [
        np.stack(np.broadcast_arrays(n, *np.indices((12 + n, 30))), -1).astype(np.uint8)
        for n in (0, 1)
    ]


def test_crops_are_squares_of_the_photos_in_their_whole_range():
    crops = photos.random_crops(ramps(), 400, 11, seed=0)
    assert crops.dtype == np.float32
    assert crops.shape == (400, 11, 11, 3)
    pixels = np.rint(255 * crops).astype(int)
    for crop in pixels:
        number, top, left = crop[0, 0]
        assert np.array_equal(crop, ramps()[number][top : top + 11, left : left + 11])
    corners = {tuple(crop[0, 0]) for crop in pixels}
    assert len(corners) > 90
    assert {c[1] for c in corners if c[0] == 0} == {0, 1}
    assert {c[1] for c in corners if c[0] == 1} == {0, 1, 2}
    assert {c[2] for c in corners} == set(range(20))


def test_the_range_is_from_0_to_1():
    black_and_white = np.zeros((12, 12, 3), np.uint8)
    black_and_white[6:] = 255
    crops = photos.random_crops([black_and_white], 4, 12, seed=0)
    assert (crops.min(), crops.max()) == (0, 1)


def test_half_of_the_crops_are_mirrored_if_so_asked():
    def rises(**options):
        """By crop and channel, how a photo's column number changes from left to right."""
        crops = photos.random_crops(ramps(), 900, 11, seed=0, **options)
        return np.rint(255 * (crops[:, 0, 1] - crops[:, 0, 0]))

    assert np.array_equal(rises(), np.tile([0, 0, 1], (900, 1)))
    mirrored = rises(mirror=True)
    assert np.array_equal(np.abs(mirrored), np.tile([0, 0, 1], (900, 1)))
    assert 400 < np.sum(mirrored < 0) < 500


def test_colours_are_shuffled_and_every_second_crop_is_a_negative_if_so_asked():
    crops = photos.random_crops(ramps(), 101, 11, 0, recolour=True)
    # The channel that tells the column rises from left to right.
    columns = np.argmax(crops[::2, 0, 1] - crops[::2, 0, 0], axis=-1)
    assert all(5 < count < 30 for count in np.bincount(columns, minlength=3))
    np.testing.assert_allclose(crops[:-1:2] + crops[1::2], 1, atol=1e-6)
    assert len(np.unique(crops[::2], axis=0)) > 40
    assert not np.allclose(sum(photos.random_crops(ramps(), 2, 11, 0)), 1)


def test_the_same_seed_gives_the_same_crops():
    first, again, other = (photos.random_crops(ramps(), 5, 11, seed) for seed in (1, 1, (1, 2)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_batches_depend_on_seed_and_epoch_alone():
    clock = EpochNumber()

    def drawn(seed, epoch):
        clock.on_epoch_begin(epoch)
        dataset = photos.crop_batches(ramps(), 10, 11, 4, seed, clock.variable)
        assert int(dataset.cardinality()) == 3
        batches = list(dataset.as_numpy_iterator())
        assert [len(x) for x, _ in batches] == [4, 4, 2]
        assert all(np.array_equal(x, y) for x, y in batches)
        return np.concatenate([x for x, _ in batches])

    first = drawn(0, 3)
    assert len(np.unique(first, axis=0)) > 5
    assert np.array_equal(first, drawn(0, 3))
    assert not np.array_equal(first, drawn(0, 4))
    assert not np.array_equal(first, drawn(1, 3))


def test_batches_have_negatives_if_so_asked():
    dataset = photos.crop_batches(ramps(), 10, 11, 4, 0, EpochNumber().variable, recolour=True)
    for crops, _ in dataset.as_numpy_iterator():
        np.testing.assert_allclose(crops[::2] + crops[1::2], 1, atol=1e-6)
