from __future__ import annotations

import numpy as np
import pytest

from keras_branch_prune.data.samples import Samples
from keras_branch_prune.data.spool import Spool


@pytest.fixture
def spool():
    with Spool(1.0) as spool:
        yield spool


def test_samples_are_read_in_any_order(spool):
    left, right = np.arange(10.0).reshape(5, 2), np.arange(5.0)
    batches = [([left[:3], right[:3]], None), ([left[3:], right[3:]], None)]
    samples = Samples(spool, batches)
    assert len(samples) == 5
    for order in ([4, 0, 2], [1, 1]):
        for array, expected in zip(samples.read(order), (left, right), strict=True):
            np.testing.assert_array_equal(array, expected[order])


def test_batches_are_of_one_shape_each(spool):
    lengths = [3, 2, 3, 3, 2, 3]
    batches = [([np.full((1, length), index)], None) for index, length in enumerate(lengths)]
    samples = Samples(spool, batches)
    groups = samples.grouped([5, 4, 3, 2, 1, 0], size=2)
    assert groups == [[5, 3], [4, 1], [2, 0]]
    assert samples.grouped(range(6), size=3) == [[0, 2, 3], [1, 4], [5]]
    for group in groups:
        (array,) = samples.read(group)
        assert array[:, 0].tolist() == group


@pytest.mark.parametrize("count", [0, 1])
def test_one_sample_is_too_few(spool, count):
    batches = [([np.zeros((count, 2))], None)]
    with pytest.raises(ValueError, match=f"at least two samples.* Received: {count}"):
        Samples(spool, batches)
