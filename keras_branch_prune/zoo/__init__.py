"""Models to prune, built from stock Keras layers, and what trains the GAN and the autoencoder."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import keras

from keras_branch_prune.zoo.autoencoder import rgb_autoencoder
from keras_branch_prune.zoo.dcgan import dcgan_discriminator, dcgan_generator
from keras_branch_prune.zoo.dcgan_training import DCGAN
from keras_branch_prune.zoo.losses import reconstruction_loss
from keras_branch_prune.zoo.vgg16 import vgg16

__all__ = [
    "DCGAN",
    "ModelType",
    "dcgan_discriminator",
    "dcgan_generator",
    "reconstruction_loss",
    "rgb_autoencoder",
    "vgg16",
]


class ModelType(enum.Enum):
    """The models of the zoo, e.g. for `absl.flags.DEFINE_enum_class`."""

    VGG16 = "vgg16"
    RGB_AUTOENCODER = "rgb_autoencoder"
    DCGAN_GENERATOR = "dcgan_generator"
    DCGAN_DISCRIMINATOR = "dcgan_discriminator"

    def build(self, **options: Any) -> keras.Model:
        """Builds the model; `options` are the arguments of the builder function.

        Example:
            >>> model = keras_branch_prune.zoo.ModelType.VGG16.build(width=0.25)
        """
        return _BUILDERS[self](**options)


_BUILDERS: dict[ModelType, Callable[..., keras.Model]] = {
    ModelType.VGG16: vgg16,
    ModelType.RGB_AUTOENCODER: rgb_autoencoder,
    ModelType.DCGAN_GENERATOR: dcgan_generator,
    ModelType.DCGAN_DISCRIMINATOR: dcgan_discriminator,
}
