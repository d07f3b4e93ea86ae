"""Generator and discriminator of a deep convolutional GAN, for small images."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import initializers, layers

from keras_branch_prune.common import require_integer
from keras_branch_prune.zoo.blocks import require_image_shape, require_widths

_KERNEL = 5


def dcgan_generator(
    *,
    noise: int = 100,
    widths: Sequence[int] = (256, 128, 64),
    image_shape: Sequence[int] = (28, 28, 1),
    name: str = "generator",
) -> keras.Model:
    """Builds the generator of a DCGAN (Radford et al., 2016).

    The noise is projected to a small image with the first of `widths` as channels. For each further
    width follows a 5 × 5 transposed convolution with batch normalization and ReLU, of stride 1 for
    the second width and of stride 2 for the others. One more of stride 2 with tanh gives the image,
    in [−1, 1] as in the paper. With the defaults, 100 numbers become 7 × 7 × 256, 7 × 7 × 128,
    14 × 14 × 64 and 28 × 28 × 1.

    Where the paper has a dense layer and a reshape, the projection is the same linear map as a
    transposed convolution of a single pixel, with a kernel as large as the small image. Its
    channels can then be normalized and pruned like those of the other layers.

    Args:
        noise: Number of random numbers per image.
        widths: Channels of all feature maps, at least two.
        image_shape: `(height, width, channels)` of the images; height and width are multiples of
            2ⁿ⁻¹ for n widths, of 4 for three.
        name: Name of the model.

    Returns:
        A model from standard normal noise `(batch, noise)` to images
        `(batch, height, width, channels)` in [−1, 1].

    Raises:
        ValueError: If `noise` is not a positive integer, `widths` not a sequence of at least two of
            them, `image_shape` not three of them, or height or width no such multiple.

    Example:
        >>> generator = keras_branch_prune.zoo.dcgan_generator(widths=(64, 32, 16))
        >>> generator.output_shape
        (None, 28, 28, 1)
    """
    noise = require_integer("noise", noise, at_least=1)
    first, *others = require_widths("widths", widths, at_least=2)
    shape = require_image_shape("image_shape", image_shape, multiple_of=2 ** len(others))
    small = tuple(size // 2 ** len(others) for size in shape[:2])
    inputs = keras.Input((noise,), name="noise")
    x = layers.Reshape((1, 1, noise), name="pixel")(inputs)
    x = layers.Conv2DTranspose(first, small, name="project", **_options(False))(x)
    x = layers.ReLU(name="project_relu")(_normalize(x, "project_bn"))
    for index, width in enumerate(others, 1):
        # Stride 1 for the first, 2 for all others.
        window = {"strides": min(index, 2), "padding": "same", **_options(False)}
        x = layers.Conv2DTranspose(width, _KERNEL, name=f"up{index}", **window)(x)
        x = layers.ReLU(name=f"up{index}_relu")(_normalize(x, f"up{index}_bn"))
    window = {"strides": 2, "padding": "same", "activation": "tanh", **_options(True)}
    x = layers.Conv2DTranspose(shape[-1], _KERNEL, name="pixels", **window)(x)
    return keras.Model(inputs, x, name=name)


def dcgan_discriminator(
    *,
    widths: Sequence[int] = (64, 128),
    image_shape: Sequence[int] = (28, 28, 1),
    name: str = "discriminator",
) -> keras.Model:
    """Builds the discriminator of a DCGAN (Radford et al., 2016).

    5 × 5 convolutions of stride 2, each with batch normalization (except the first) and LeakyReLU
    of slope 0.2, then one dense layer.

    Args:
        widths: Channels of the convolutions.
        image_shape: `(height, width, channels)` of the images.
        name: Name of the model.

    Returns:
        A model from images `(batch, height, width, channels)` in [−1, 1] to logits `(batch, 1)`,
        which are positive for images that look real.

    Raises:
        ValueError: If `widths` is not a sequence of positive integers, or `image_shape` not three
            of them.

    Example:
        >>> discriminator = keras_branch_prune.zoo.dcgan_discriminator(widths=(16, 32))
        >>> discriminator.output_shape
        (None, 1)
    """
    widths = require_widths("widths", widths, at_least=1)
    inputs = x = keras.Input(require_image_shape("image_shape", image_shape), name="image")
    for index, width in enumerate(widths, 1):
        # The first has no batch normalization, whose beta is the bias of the others.
        window = {"strides": 2, "padding": "same", **_options(index == 1)}
        x = layers.Conv2D(width, _KERNEL, name=f"conv{index}", **window)(x)
        if index > 1:
            x = _normalize(x, f"bn{index}")
        x = layers.LeakyReLU(negative_slope=0.2, name=f"relu{index}")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(1, name="logit", **_options(True))(x), name=name)


def _normalize(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.BatchNormalization(momentum=0.9, name=name)(x)


def _options(use_bias: bool) -> dict:
    """Returns the options of every linear layer, with the paper's initial weights."""
    return {
        "use_bias": use_bias,
        "kernel_initializer": initializers.RandomNormal(stddev=0.02),
    }
