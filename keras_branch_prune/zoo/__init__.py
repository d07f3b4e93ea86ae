"""Models to prune, built from stock Keras layers, and losses to train them."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import keras

from keras_branch_prune.zoo.autoencoder import rgb_autoencoder
from keras_branch_prune.zoo.losses import reconstruction_loss
from keras_branch_prune.zoo.vgg16 import vgg16

__all__ = [
    "ModelType",
    "reconstruction_loss",
    "rgb_autoencoder",
    "vgg16",
]


class ModelType(enum.Enum):
    """The models of the zoo, e.g. for `absl.flags.DEFINE_enum_class`."""

    VGG16 = "vgg16"
    RGB_AUTOENCODER = "rgb_autoencoder"

    def build(self, **options: Any) -> keras.Model:
        """Builds the model; `options` are the arguments of the builder function."""
        return _BUILDERS[self](**options)


_BUILDERS: dict[ModelType, Callable[..., keras.Model]] = {
    ModelType.VGG16: vgg16,
    ModelType.RGB_AUTOENCODER: rgb_autoencoder,
}
