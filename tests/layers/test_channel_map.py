"""What a ChannelMap computes, position by position."""

import keras
import numpy as np
import pytest
from helpers.arrays import random

from keras_branch_prune.layers.channel_map import ChannelMap


def expected_map(layer, x):
    """The same map with NumPy, block by block, each position on its own."""
    x = np.moveaxis(np.asarray(x, "float64"), layer.axis, -1)
    parts, start = [], 0
    for (positions, inputs, _), kernel in zip(layer.blocks, layer.kernels, strict=True):
        for _ in range(positions):
            part = x[..., start : start + inputs]
            parts.append(np.einsum("...i,io->...o", part, np.asarray(kernel.numpy(), "float64")))
            start += inputs
    assert start == x.shape[-1]
    y = np.concatenate(parts, axis=-1)
    if layer.bias is not None:
        y = y + np.asarray(layer.bias.numpy(), "float64")
    return np.moveaxis(y, -1, layer.axis)


MAPS = {
    "reduce": ({"blocks": [(1, 6, 4)], "use_bias": True}, (6,)),
    "expand": ({"blocks": [(1, 4, 6)]}, (5, 5, 4)),
    "first": ({"blocks": [(1, 6, 4)], "axis": 1, "use_bias": True}, (6, 5, 7)),
    "first_1d": ({"blocks": [(1, 6, 4)], "axis": 1}, (6, 5)),
    "last_by_number": ({"blocks": [(1, 6, 4)], "axis": 3, "use_bias": True}, (5, 7, 6)),
    "blocks": ({"blocks": [(1, 2, 3), (1, 4, 1), (1, 1, 2)]}, (5, 7)),
    "blocks_first": ({"blocks": [(1, 2, 3), (1, 4, 1)], "axis": 1}, (6, 5, 3)),
    "positions": ({"blocks": [(9, 2, 3)]}, (18,)),
    "positions_and_blocks": ({"blocks": [(4, 2, 3), (1, 5, 2), (2, 3, 1)]}, (19,)),
    "positions_with_bias": ({"blocks": [(3, 2, 4), (1, 2, 3)], "use_bias": True}, (8,)),
    "positions_first": ({"blocks": [(2, 3, 2), (1, 2, 4)], "axis": 1}, (8, 3)),
}


@pytest.mark.parametrize(("config", "shape"), MAPS.values(), ids=MAPS)
def test_channel_map(config, shape):
    layer = ChannelMap(**config)
    x = random(3, *shape)
    layer.build(x.shape)
    if layer.bias is not None:
        layer.bias.assign(random(*layer.bias.shape, seed=2))
    y = layer(x)
    assert tuple(y.shape) == layer.compute_output_shape(x.shape)
    np.testing.assert_allclose(y, expected_map(layer, x), atol=1e-5)


@pytest.mark.parametrize(("config", "shape"), MAPS.values(), ids=MAPS)
def test_channel_map_in_a_model_of_dynamic_batch(config, shape, tmp_path):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, ChannelMap(name="map", **config)(inputs))
    assert model.output_shape == model.layers[-1].compute_output_shape((None, *shape))
    x = random(7, *shape)
    expected = expected_map(model.layers[-1], x)
    np.testing.assert_allclose(model.predict(x, batch_size=4, verbose=0), expected, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("map").get_config() == model.get_layer("map").get_config()
    np.testing.assert_array_equal(loaded(x), model(x))


def test_channel_map_of_dynamic_positions():
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, ChannelMap([(2, 2, 3)])(inputs))
    assert model.output_shape == (None, None, None, 6)
    x = random(2, 5, 3, 4)
    expected = expected_map(model.layers[-1], x)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)
