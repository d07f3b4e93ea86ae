"""Random shifts and flips of images, which depend on a seed and the epoch's number only."""

import math

import keras
import numpy as np
import tensorflow as tf


class EpochNumber(keras.callbacks.Callback):
    """Tells `augment` which epoch it is, so that a resumed training goes on with the same images.

    Attributes:
        variable: The number of the current epoch, from 0; the `epoch` of `augment`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.variable = tf.Variable(0, trainable=False, dtype=tf.int64)

    def on_epoch_begin(self, epoch, logs=None):
        """Sets the variable before the epoch's first batch is made."""
        self.variable.assign(epoch)


def augment(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    seed: int,
    max_shift: int = 2,
    flip: bool = False,
    epoch: tf.Variable | None = None,
) -> tf.data.Dataset:
    """Makes shuffled batches of randomly shifted images, new ones in every epoch.

    Args:
        images: `(count, height, width, channels)`.
        labels: `(count,)`.
        batch_size: How many images a batch has; the last one may have fewer.
        seed: Decides the order, the shifts and the flips of every epoch.
        max_shift: The largest shift in either direction, in pixels. Gaps are filled with zeros.
        flip: Whether to mirror half of the images, left to right.
        epoch: An int64 variable with the number of the epoch, such as `EpochNumber().variable`.
            None counts the iterations over the data set instead.

    Returns:
        A data set of `(images, labels)`. The same seed and epoch give the same batches. It is
        shuffled already: pass `shuffle=False` to `fit`.

    Raises:
        ValueError: The counts differ, `batch_size` < 1 or `max_shift` < 0.
    """
    if len(images) != len(labels) or batch_size < 1 or max_shift < 0:
        raise ValueError(
            "Expected as many images as labels, `batch_size` >= 1 and `max_shift` >= 0. Received: "
            f"{len(images)} images, {len(labels)} labels, batch_size={batch_size}, "
            f"max_shift={max_shift}"
        )
    count = len(images)
    images, labels = tf.constant(images), tf.constant(labels)

    def example(index, epoch_seed):
        image_seed = tf.random.experimental.stateless_fold_in(epoch_seed, index)
        return _changed(images[index], image_seed, max_shift, flip), labels[index]

    shuffled = _shuffled_indices(count, seed, epoch)
    batches = shuffled.map(example, tf.data.AUTOTUNE).batch(batch_size)
    # A data set within a data set has no known length, which Keras wants for its progress bar.
    length = tf.data.experimental.assert_cardinality(math.ceil(count / batch_size))
    return batches.apply(length).prefetch(tf.data.AUTOTUNE)


def _shuffled_indices(count: int, seed: int, epoch: tf.Variable | None) -> tf.data.Dataset:
    """Makes a data set of `(index, seed of the epoch)` in another order for each epoch."""
    iterations = tf.Variable(-1, trainable=False, dtype=tf.int64)

    def one_epoch(_):
        number = iterations.assign_add(1) if epoch is None else epoch.read_value()
        epoch_seed = tf.stack([tf.cast(seed, tf.int64), number])
        indices = tf.random.experimental.stateless_shuffle(tf.range(count), epoch_seed)
        return tf.data.Dataset.from_tensor_slices(indices).map(lambda index: (index, epoch_seed))

    return tf.data.Dataset.range(1).flat_map(one_epoch)


def _changed(image: tf.Tensor, seed: tf.Tensor, max_shift: int, flip: bool) -> tf.Tensor:
    padding = ((max_shift, max_shift), (max_shift, max_shift), (0, 0))
    shifted = tf.image.stateless_random_crop(tf.pad(image, padding), tf.shape(image), seed)
    shifted = tf.ensure_shape(shifted, image.shape)
    if flip:
        # Another seed than the shift's: flips and shifts are independent.
        return tf.image.stateless_random_flip_left_right(shifted, seed + 1)
    return shifted
