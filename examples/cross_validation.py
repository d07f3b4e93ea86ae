"""Stratified cross-validation: what a single split leaves to chance, as mean and deviation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from image_data import ImageData, Split

Metrics = Mapping[str, Mapping[str, float]]
"""By model, the value of every metric."""


def stratified_folds(data: ImageData, count: int, seed: int) -> Iterator[ImageData]:
    """Yields the data split anew into training and validation images.

    Args:
        data: Its training and validation images are split; the test images stay.
        count: Number of folds, at least 2. Every image is used for validation in one of them.
        seed: Chooses the folds; in each the classes are as frequent as in all images.

    Raises:
        ValueError: If a class has fewer images than there are folds, or `count` < 2.
    """
    from sklearn.model_selection import StratifiedKFold

    images = np.concatenate([data.train.images, data.validation.images])
    labels = np.concatenate([data.train.labels, data.validation.labels])
    if np.unique(labels, return_counts=True)[1].min() < count:
        raise ValueError(f"Every class needs an image per fold. Received: count={count}")
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    for parts in splitter.split(images, labels):
        train, validation = (Split(images[part], labels[part]) for part in parts)
        yield dataclasses.replace(data, train=train, validation=validation)


def summarize(folds: Sequence[Metrics], metric: str) -> dict[str, dict[str, float]]:
    """Returns mean and sample standard deviation of a metric over the folds, by model."""
    values = {name: [fold[name][metric] for fold in folds] for name in folds[0]}
    return {
        name: {"mean": float(np.mean(row)), "standard_deviation": float(np.std(row, ddof=1))}
        for name, row in values.items()
    }
