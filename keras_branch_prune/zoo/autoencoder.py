"""A convolutional autoencoder for RGB images, plain or with skip connections."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from keras_branch_prune.zoo.blocks import add_convolution, require_image_shape, require_widths


def rgb_autoencoder(
    *,
    widths: Sequence[int] = (64, 128, 128),
    input_shape: Sequence[int] = (128, 128, 3),
    skips: bool = False,
    name: str = "rgb_autoencoder",
) -> keras.Model:
    """Builds an autoencoder of images with values in [0, 1].

    The encoder has one block per width: two 3 × 3 convolutions (three in the deepest block), each
    with batch normalization and ReLU, then max pooling by 2. The decoder mirrors it block by block:
    a 2 × 2 transposed convolution of stride 2, which keeps the channels, then as many convolutions,
    the last of them with the width of the next block. For the widths 64, 128, 128 its blocks end
    with 128, 64 and 3 channels. The very last convolution has a sigmoid instead of batch
    normalization and ReLU: its images are in [0, 1], as `reconstruction_loss` expects.

    Encoder and decoder are nested models, so that `plan(model, width=0.5, scope="encoder")` narrows
    the encoder with the bottleneck, and `scope="decoder"` the decoder.

    Args:
        widths: Channels of the blocks of the encoder, from the image to the bottleneck.
        input_shape: `(height, width, channels)` of the images; height and width are multiples of
            2ⁿ for n blocks, of 8 for three.
        skips: Whether the decoder also reads the features of every encoder block before pooling,
            concatenated with the up-sampled ones as in a U-Net (Ronneberger et al., 2015). They are
            then outputs of the encoder, the block next to the image first, the bottleneck last.
        name: Name of the model.

    Returns:
        A model from images `(batch, height, width, channels)` to images of the same shape, which
        consists of the models "encoder" and "decoder". For images of 128 px the bottleneck is
        `(batch, 16, 16, 128)`.

    Raises:
        ValueError: If `widths` is not a sequence of positive integers, `input_shape` not three of
            them, or height or width no such multiple.

    Example:
        >>> model = kbp.zoo.rgb_autoencoder(widths=(4, 8), input_shape=(16, 16, 3))
        >>> model.compile("adam", kbp.zoo.reconstruction_loss)
        >>> model.fit(images, images)
    """
    widths = require_widths("widths", widths, at_least=1)
    shape = require_image_shape("input_shape", input_shape, multiple_of=2 ** len(widths))
    encoder = _build_encoder(widths, shape, skips)
    decoder = _build_decoder(widths, encoder, channels=shape[-1])
    inputs = keras.Input(shape, name="image")
    return keras.Model(inputs, decoder(encoder(inputs)), name=name)


def _build_encoder(widths: tuple[int, ...], shape: tuple[int, ...], skips: bool) -> keras.Model:
    inputs = x = keras.Input(shape, name="image")
    features = []
    for block, width in enumerate(widths, 1):
        for index in range(1, _convolution_count(block, widths) + 1):
            x = add_convolution(x, width, f"block{block}_{{}}{index}")
        features.append(x)
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    return keras.Model(inputs, [*features, x] if skips else x, name="encoder")


def _build_decoder(widths: tuple[int, ...], encoder: keras.Model, channels: int) -> keras.Model:
    """Mirrors the encoder; a block has the number of the block it mirrors, so they count down."""
    inputs = [keras.Input(tensor.shape[1:]) for tensor in encoder.outputs]
    *features, x = inputs
    for block in range(len(widths), 0, -1):
        width, count = widths[block - 1], _convolution_count(block, widths)
        x = layers.Conv2DTranspose(width, 2, strides=2, name=f"block{block}_up")(x)
        if features:
            x = layers.Concatenate(name=f"block{block}_skip")([x, features[block - 1]])
        # The block next to the image ends with "pixels", below.
        following = [widths[block - 2]] if block > 1 else []
        for index, filters in enumerate([width] * (count - 1) + following, 1):
            x = add_convolution(x, filters, f"block{block}_{{}}{index}")
    last = layers.Conv2D(channels, 3, padding="same", activation="sigmoid", name="pixels")
    return keras.Model(inputs if features else inputs[0], last(x), name="decoder")


def _convolution_count(block: int, widths: tuple[int, ...]) -> int:
    return 3 if block == len(widths) else 2
