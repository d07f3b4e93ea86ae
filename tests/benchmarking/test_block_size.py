from __future__ import annotations

import math

import pytest

from keras_branch_prune.analysis.costs import count_macs
from keras_branch_prune.benchmarking.block_size import block_size, measure_block_size


def machine(block, overhead=0.0, noise=0.0):
    """Returns a measure of a machine that fills up blocks of this many channels."""

    def measure(models, batch_size):
        assert batch_size > 0
        times = {}
        for index, (name, model) in enumerate(models.items()):
            width = model.input_shape[-1]
            padded = math.ceil(width / block) * block
            time = overhead + count_macs(model) * (padded / width) ** 2
            times[name] = time * (1 + noise * (-1) ** index)
        return times

    return measure


@pytest.mark.parametrize("block", [1, 4, 8, 16, 32, 64])
def test_the_block_of_a_machine_is_found(block):
    assert measure_block_size(machine(block)) == block


@pytest.mark.parametrize("block", [8, 16, 32])
def test_noise_of_two_percent_and_overhead_do_not_matter(block):
    assert measure_block_size(machine(block, overhead=1e5, noise=0.01)) == block


@pytest.mark.slow
def test_this_machine_has_one():
    assert block_size() in (1, 4, 8, 16, 32, 64)
    assert block_size() == block_size()
