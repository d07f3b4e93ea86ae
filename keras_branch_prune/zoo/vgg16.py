"""VGG16 with batch normalization, for small images."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from keras_branch_prune.common import require_integer, require_number_up_to, require_positive
from keras_branch_prune.zoo.blocks import add_convolution

_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(
    *,
    width: float = 1.0,
    input_shape: Sequence[int] = (32, 32, 3),
    classes: int = 10,
    dropout: float = 0.0,
    name: str = "vgg16",
) -> keras.Model:
    """Builds VGG16 (Simonyan and Zisserman, 2015) as it is used for small images.

    Thirteen 3 × 3 convolutions, each with batch normalization and ReLU, in five blocks that end in
    max pooling, then one dense layer. Pooling pads, so that images of 28 pixels are large enough.

    Args:
        width: Factor on the 64 to 512 filters of the convolutions.
        input_shape: `(height, width, channels)` of the images.
        classes: Number of classes.
        dropout: Share of the features dropped before the dense layer during training.
        name: Name of the model.

    Returns:
        A model from images `(batch, height, width, channels)` to logits `(batch, classes)`.

    Raises:
        ValueError: If `width`, `classes` or `dropout` is out of range.

    Example:
        >>> vgg16 = keras_branch_prune.zoo.vgg16(width=0.25, input_shape=(28, 28, 1))
        >>> vgg16.output_shape
        (None, 10)
    """
    width = require_positive("width", width)
    classes = require_integer("classes", classes, at_least=1)
    dropout = require_number_up_to("dropout", dropout, at_most=1)
    inputs = x = keras.Input(tuple(input_shape), name="image")
    for block, sizes in enumerate(_BLOCKS, 1):
        for index, filters in enumerate(sizes, 1):
            x = add_convolution(x, max(1, round(filters * width)), f"block{block}_{{}}{index}")
        x = layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)
