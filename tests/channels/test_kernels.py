"""Multiplying maps into a kernel is running the map before or after the layer."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.arrays import random

from keras_branch_prune.channels.kernels import ChannelMatrices, multiply_weights


def matrices(*blocks, bias=None):
    """A map of random blocks `(positions, channels before, channels after)`."""
    made = [(p, random(k, c, seed=n).astype(np.float64)) for n, (p, k, c) in enumerate(blocks)]
    return ChannelMatrices(tuple(made), bias)


def whole(channel_map):
    """The whole map as one matrix, block-diagonal, every position on its own."""
    result, row, column = np.zeros(channel_map.shape), 0, 0
    for positions, matrix in channel_map.blocks:
        for _ in range(positions):
            height, width = matrix.shape
            result[row : row + height, column : column + width] = matrix
            row, column = row + height, column + width
    return result


MAPS = [matrices((1, 2, 5)), matrices((1, 2, 3), (1, 4, 2)), matrices((3, 2, 4), (1, 1, 2))]


def multiply(kernel, axes=(0, 1), expand=None, reduce=None, bias=None, conv_groups=1):
    """The weights of a layer multiplied with the maps around it."""
    weights = [kernel] if bias is None else [kernel, bias]
    made = multiply_weights(weights, axes, expand, reduce, conv_groups)
    for deferred in made:
        assert deferred.numpy().shape == tuple(deferred.shape)
    return [deferred.numpy() for deferred in made]


@pytest.mark.parametrize("channel_map", MAPS, ids=["one block", "blocks", "positions"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_kernels_behind_and_before_a_map(channel_map, axis):
    before, after = channel_map.shape
    other_axis = (axis + 1) % 3
    wide = np.moveaxis(random(3, 4, after).astype(np.float64), -1, axis)
    (kernel,) = multiply(wide, (axis, other_axis), expand=channel_map)
    expected = np.moveaxis(wide, axis, -1) @ whole(channel_map).T
    np.testing.assert_allclose(np.moveaxis(kernel, axis, -1), expected, rtol=1e-12)
    wide = np.moveaxis(random(3, 4, before).astype(np.float64), -1, axis)
    (kernel,) = multiply(wide, (other_axis, axis), reduce=channel_map)
    expected = np.moveaxis(wide, axis, -1) @ whole(channel_map)
    np.testing.assert_allclose(np.moveaxis(kernel, axis, -1), expected, rtol=1e-12)


def test_no_map_changes_nothing():
    kernel, bias = random(3, 2), random(2)
    for found, expected in zip(multiply(kernel, bias=bias), (kernel, bias), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.float32


def test_every_group_of_a_convolution_reads_its_part_of_the_map():
    expand = matrices((1, 2, 3), (1, 2, 3))
    kernel = random(3, 8).astype(np.float64)  # Two groups of three inputs and four outputs.
    (narrow,) = multiply(kernel, expand=expand, conv_groups=2)
    for group, (_, matrix) in enumerate(expand.blocks):
        outputs = slice(4 * group, 4 * group + 4)
        np.testing.assert_allclose(narrow[:, outputs], matrix @ kernel[:, outputs], rtol=1e-12)


def test_a_bias_goes_through_the_map_and_is_added_to():
    kernel, bias = random(3, 2, 4).astype(np.float64), np.arange(4.0)
    reduce = matrices((1, 4, 2), bias=np.array([10.0, 20.0]))
    _, found = multiply(kernel, (1, 2), reduce=reduce, bias=bias)
    np.testing.assert_allclose(found, bias @ whole(reduce) + reduce.bias)
    expand = matrices((1, 1, 2), bias=np.array([1.0, -2.0]))
    _, found = multiply(kernel, (1, 2), expand=expand, bias=bias)
    np.testing.assert_allclose(found, bias + kernel[:, 0].sum(0) - 2 * kernel[:, 1].sum(0))


def test_a_diagonal_map_is_a_scale():
    scale = ChannelMatrices.diagonal(np.array([2.0, 3.0]), np.array([1.0, 1.0]))
    np.testing.assert_array_equal(multiply(np.ones((4, 2)), reduce=scale)[0], [[2, 3]] * 4)
    np.testing.assert_array_equal(scale.dense(), np.diag([2, 3]))
    twice = scale.repeat(2)
    np.testing.assert_array_equal(twice.blocks[0][1], [2, 2, 3, 3])
    np.testing.assert_array_equal(twice.bias, [1, 1, 1, 1])
    np.testing.assert_array_equal(scale.part(slice(1, 2), slice(1, 2)), [3])


def test_the_map_the_other_way():
    channel_map = matrices((1, 2, 3), (1, 1, 2))
    other = channel_map.transpose()
    assert other.shape == (5, 3)
    np.testing.assert_array_equal(other.dense(), channel_map.dense().T)
