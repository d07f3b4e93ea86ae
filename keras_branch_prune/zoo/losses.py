"""A loss between images."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable(package="keras_branch_prune")
def reconstruction_loss(truth: Any, image: Any) -> Any:
    """Returns the mean absolute error plus one minus the structural similarity, per image.

    Both terms have the weight 1: `mean|truth − image| + (1 − SSIM(truth, image))`, where SSIM (Wang
    et al., 2004) is that of `tf.image.ssim` for values in [0, 1], in windows of 11 × 11 px, the
    mean over windows and channels. The sum is in [0, 3], and 0 for equal images.

    Args:
        truth: Images `(batch, height, width, channels)` in [0, 1], of at least 11 × 11 px.
        image: Their reconstructions, of the same shape.

    Returns:
        A float32 tensor of shape `(batch,)`, of which Keras takes the mean where this is the `loss`
        of `compile`.

    Example:
        >>> model.compile("adam", kbp.zoo.reconstruction_loss)
    """
    # In float16 the variances in the windows would be rounded to nothing.
    truth, image = (ops.cast(tensor, "float32") for tensor in (truth, image))
    distance = ops.mean(ops.abs(truth - image), axis=(1, 2, 3))
    return distance + (1.0 - tf.image.ssim(truth, image, max_val=1.0))
