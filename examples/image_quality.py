"""What reconstructed images are judged by, and how an autoencoder is compiled with it."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

import keras_branch_prune as kbp


def psnr(truth: Any, image: Any) -> Any:
    """Returns the peak signal-to-noise ratio per image, dB.

    Args:
        truth: Images `(batch, height, width, channels)` in [0, 1].
        image: Their reconstructions, of the same shape.

    Returns:
        A float32 tensor of shape `(batch,)`; infinite for equal images.
    """
    return tf.image.psnr(truth, image, max_val=1.0)


def ssim(truth: Any, image: Any) -> Any:
    """Returns the structural similarity per image (Wang et al., 2004), in windows of 11 × 11 px.

    Args:
        truth: Images `(batch, height, width, channels)` in [0, 1], of at least 11 × 11 px.
        image: Their reconstructions, of the same shape.

    Returns:
        A float32 tensor of shape `(batch,)`, at most 1, which equal images have.
    """
    return tf.image.ssim(truth, image, max_val=1.0)


def compile_autoencoder(model: keras.Model, learning_rate: Any = 0.001) -> None:
    """Compiles a model that returns images, with Adam and the loss of the zoo's autoencoder."""
    model.compile(
        keras.optimizers.Adam(learning_rate),
        kbp.zoo.reconstruction_loss,
        metrics=[psnr, ssim, "mae"],
    )
