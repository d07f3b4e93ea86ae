"""Checks of numeric arguments."""

import math

import numpy as np
import pytest

from keras_branch_prune.common.arguments import require_integer, require_number


def test_numbers_in_range_are_returned_as_python_numbers():
    assert type(require_number("x", np.float32(0.5), lambda x: x < 1, "below 1")) is float
    assert type(require_integer("n", np.int64(3), at_least=3)) is int


@pytest.mark.parametrize("value", [1.0, math.nan, None, "0", True])
def test_numbers_out_of_range(value):
    with pytest.raises(ValueError, match=r"`x` must be below 1\. Received: x="):
        require_number("x", value, lambda x: x < 1, "below 1")


@pytest.mark.parametrize("value", [2, 3.0, None, "3", True])
def test_integers_out_of_range(value):
    with pytest.raises(ValueError, match=r"`n` must be an integer of at least 3\. Received: n="):
        require_integer("n", value, at_least=3)
