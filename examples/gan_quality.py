"""How good a generator is: how far its images are from real ones, in a classifier's features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from frechet import Gaussian, frechet_distance
from image_data import ImageData, Split
from keras import layers

import keras_branch_prune as kbp

FEATURES = 64
_BATCH = 500


def small_classifier(data: ImageData) -> keras.Model:
    """Builds a classifier whose layer before the logits has 64 features.

    Args:
        data: Whose images and classes the model is for.
    """
    inputs = x = keras.Input(data.image_shape, name="image")
    for index, filters in enumerate((32, 64), 1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{index}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{index}")(x)
    x = layers.Dense(FEATURES, activation="relu", name="features")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(data.classes, name="logits")(x), name="classifier")


class FrechetJudge:
    """Compares generators with the real images of a data set.

    Args:
        classifier: A model of `small_classifier`, trained; takes images in [0, 1].
        real: By name, the images to compare with.
        samples: How many are generated, and how many real ones are taken where there are so many.
        noise_seeds: How often images are generated.
    """

    def __init__(
        self,
        classifier: keras.Model,
        real: Mapping[str, Split],
        samples: int,
        noise_seeds: int,
    ) -> None:
        features = classifier.get_layer("features").output
        self._features = keras.Model(classifier.inputs[0], features)
        self._samples = samples
        self._noise_seeds = noise_seeds
        self.real = {name: self._gaussian(split.images[:samples]) for name, split in real.items()}

    def distances(self, generator: keras.Model) -> dict[str, dict[str, float]]:
        """Returns mean and standard deviation of the Fréchet distance, by name of the real images.

        Args:
            generator: From noise to images in [−1, 1].
        """
        found = [
            self._gaussian(unit_range(applied(generator, noise)))
            for noise in self._noise(generator.input_shape[1])
        ]
        return {name: _summary(found, real) for name, real in self.real.items()}

    def between_real(self) -> float:
        """Returns the distance between the first two sets of real images: no generator beats it."""
        first, second, *_ = self.real.values()
        return frechet_distance(first, second)

    def _noise(self, size: int):
        for seed in range(self._noise_seeds):
            yield standard_normal(self._samples, size, seed)

    def _gaussian(self, images: np.ndarray) -> Gaussian:
        return Gaussian.of(applied(self._features, images))


def applied(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """Returns what a model in inference mode makes of inputs, batch by batch."""
    batches = (inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH))
    return np.concatenate([keras.ops.convert_to_numpy(model(batch)) for batch in batches])


def standard_normal(samples: int, size: int, seed: int) -> np.ndarray:
    """Returns noise `(samples, size)`, the same for the same arguments."""
    return np.random.default_rng(seed).normal(size=(samples, size)).astype(np.float32)


def unit_range(images: np.ndarray) -> np.ndarray:
    """Returns images of [−1, 1] in [0, 1]."""
    return (images + 1) / 2


def _summary(found: list[Gaussian], real: Gaussian) -> dict[str, float]:
    values = [frechet_distance(gaussian, real) for gaussian in found]
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "standard_deviation": float(deviation)}


def save_grid(rows: Mapping[str, np.ndarray], path: Path) -> None:
    """Draws a row of images for every name.

    Args:
        rows: By name, images `(count, height, width, channels)` in [0, 1].
        path: The `.png` file.
    """
    from matplotlib.figure import Figure

    height, width = next(iter(rows.values())).shape[1:3]
    images = {name: np.concatenate(row, axis=1) for name, row in rows.items()}
    picture = np.concatenate([*images.values()])
    picture = picture.mean(axis=2) if picture.shape[2] not in (3, 4) else picture
    columns = picture.shape[1] / width
    figure = Figure(figsize=(1.3 + 0.5 * columns, 0.5 * len(rows) * height / width + 0.2))
    axes = figure.add_axes((1.3 / figure.get_figwidth(), 0, 1 - 1.3 / figure.get_figwidth(), 1))
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([height * (index + 0.5) for index in range(len(rows))], list(rows))
    axes.spines[:].set_visible(False)
    with kbp.atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
