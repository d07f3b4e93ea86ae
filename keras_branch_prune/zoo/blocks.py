"""What the models of the zoo are built of, and checks of their sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_branch_prune.common import require, require_integer


def add_convolution(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    """Applies a 3 × 3 convolution, batch normalization and ReLU to images.

    Args:
        x: Images `(batch, height, width, channels)`.
        filters: Number of output channels.
        name: Names of the layers; `{}` in it stands for conv, bn and relu.
    """
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name.format("conv"))(x)
    # Keras' default of 0.99 averages over some hundred steps, too many for short epochs.
    x = layers.BatchNormalization(momentum=0.9, name=name.format("bn"))(x)
    return layers.ReLU(name=name.format("relu"))(x)


def require_widths(name: str, widths: Any, at_least: int) -> tuple[int, ...]:
    """Returns numbers of channels as a tuple, or raises `ValueError`.

    Args:
        name: Name of the argument.
        widths: A sequence of positive integers.
        at_least: How many there must be.
    """
    several = isinstance(widths, Sequence) and not isinstance(widths, str)
    enough = several and len(widths) >= at_least
    require(enough, name, widths, f"a sequence of at least {at_least} integers")
    return tuple(require_integer(name, width, at_least=1) for width in widths)


def require_image_shape(name: str, shape: Any, multiple_of: int = 1) -> tuple[int, int, int]:
    """Returns `(height, width, channels)` as integers, or raises `ValueError`.

    Args:
        name: Name of the argument.
        shape: A sequence of three positive integers.
        multiple_of: What height and width must be multiples of.
    """
    three = isinstance(shape, Sequence) and len(shape) == 3
    require(three, name, shape, "(height, width, channels)")
    height, width, channels = (require_integer(name, size, at_least=1) for size in shape)
    if height % multiple_of or width % multiple_of:
        raise ValueError(
            f"`{name}` must have a height and a width that are multiples of {multiple_of}, as they "
            f"are halved or doubled so often. Received: {shape!r}"
        )
    return height, width, channels
