"""The crops that an autoencoder is trained and judged on."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from augmentation import EpochNumber
from photos import Photos, PhotoSplits, crop_batches, load_photos, random_crops

# The crops to evaluate on are the same whatever the seed, or results of two seeds do not compare.
_SEEDS = {"train": 1, "val": 2, "test": 3}

Pair = tuple[np.ndarray, np.ndarray]
"""Crops `(count, height, width, 3)` as inputs and as targets."""


@dataclass(frozen=True, eq=False)
class AutoencoderData:
    """Photos, and the crops that are drawn from them.

    Args:
        photos: The photos in three splits.
        evaluation: By split ("train", "val", "test"), the crops to evaluate on, none mirrored.
        crop_size: Height and width of a crop, px.
        crops: How many crops an epoch has.
        batch_size: How many a training step has.
        seed: Seed of the training crops.
        recolour: Whether the colours of training crops are shuffled and inverted.
    """

    photos: PhotoSplits
    evaluation: dict[str, np.ndarray]
    crop_size: int
    crops: int
    batch_size: int
    seed: int
    recolour: bool = False

    @classmethod
    def load(
        cls,
        dataset: str,
        data_dir: str | os.PathLike[str],
        *,
        crop_size: int,
        crops: int,
        evaluation_crops: int,
        batch_size: int,
        seed: int,
        recolour: bool = False,
    ) -> AutoencoderData:
        """Loads photos, see `load_photos`, and draws the crops to evaluate on."""
        photos = load_photos(dataset, crop_size, seed, data_dir)
        splits = {"train": photos.train, "val": photos.validation, "test": photos.test}
        evaluation = {
            name: random_crops(_list(split), evaluation_crops, crop_size, _SEEDS[name])
            for name, split in splits.items()
        }
        return cls(photos, evaluation, crop_size, crops, batch_size, seed, recolour)

    @property
    def validation(self) -> Pair:
        """The validation crops as inputs and targets."""
        return self.evaluation["val"], self.evaluation["val"]

    def batches(self, clock: EpochNumber) -> tf.data.Dataset:
        """Makes batches of training crops for the epoch that a clock shows."""
        return crop_batches(
            _list(self.photos.train),
            self.crops,
            self.crop_size,
            self.batch_size,
            self.seed,
            clock.variable,
            self.recolour,
        )

    def examples(self, most: int = 3) -> dict[str, np.ndarray]:
        """Draws a crop each of some validation and test photos, by a label for pictures."""
        splits = {"validation": self.photos.validation, "test": self.photos.test}
        return {
            f"{split}: {name}": random_crops([photo], 1, self.crop_size, 0)[0]
            for split, photos in splits.items()
            for name, photo in list(photos.items())[:most]
        }


def _list(photos: Photos) -> list[np.ndarray]:
    return list(photos.values())
