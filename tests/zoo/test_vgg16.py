from __future__ import annotations

import pytest
from keras import layers

from keras_branch_prune.zoo import ModelType, vgg16


def test_vgg16_has_the_published_convolutions():
    model = ModelType.VGG16.build()
    filters = [layer.filters for layer in model.layers if isinstance(layer, layers.Conv2D)]
    assert filters == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert model.count_params() == 14_732_490
    assert model.output_shape == (None, 10)


@pytest.mark.parametrize("size", [28, 32, 33])
def test_vgg16_takes_small_images_of_any_size(size):
    model = vgg16(width=0.125, input_shape=(size, size, 1), classes=3, dropout=0.5)
    assert model.output_shape == (None, 3)
    assert model.get_layer("block1_conv1").filters == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "`width` must be a positive number"),
        ({"classes": 0}, "`classes` must be an integer of at least 1"),
        ({"dropout": 1.5}, r"`dropout` must be a number in \[0, 1\]"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        vgg16(**options)
