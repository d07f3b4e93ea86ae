"""Models to prune, built from stock Keras layers."""

from __future__ import annotations

import enum
from typing import Any

import keras

from keras_branch_prune.zoo.vgg16 import vgg16

__all__ = ["ModelType", "vgg16"]


class ModelType(enum.Enum):
    """The models of the zoo, e.g. for `absl.flags.DEFINE_enum_class`."""

    VGG16 = "vgg16"

    def build(self, **options: Any) -> keras.Model:
        """Builds the model; `options` are the arguments of the builder function."""
        return _BUILDERS[self](**options)


_BUILDERS = {ModelType.VGG16: vgg16}
