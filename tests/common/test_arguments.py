"""Checks of arguments."""

import math

import numpy as np
import pytest

from keras_branch_prune.common.arguments import (
    require_bool,
    require_choice,
    require_integer,
    require_number,
    require_number_up_to,
    require_positive,
    require_share,
)


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


@pytest.mark.parametrize("value", [0, 4, 3.0, True])
def test_integers_between_bounds(value):
    assert require_integer("n", 3, at_least=1, at_most=3) == 3
    with pytest.raises(ValueError, match=r"`n` must be an integer in \[1, 3\]\. Received: n="):
        require_integer("n", value, at_least=1, at_most=3)


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, "1", True, None])
def test_positive_numbers(value):
    assert require_positive("x", np.float16(2)) == 2.0
    with pytest.raises(ValueError, match=r"`x` must be a positive number\. Received: x="):
        require_positive("x", value)


@pytest.mark.parametrize("value", [0, 1, math.nan, "0.5", True])
def test_shares(value):
    assert require_share("x", 0.5) == 0.5
    with pytest.raises(ValueError, match=r"`x` must be a number in \(0, 1\)\. Received: x="):
        require_share("x", value)


@pytest.mark.parametrize("value", [-0.1, 2.1, math.nan, False])
def test_numbers_up_to_a_bound(value):
    assert require_number_up_to("x", 2, at_most=2) == 2.0
    with pytest.raises(ValueError, match=r"`x` must be a number in \[0, 2\]\. Received: x="):
        require_number_up_to("x", value, at_most=2)


@pytest.mark.parametrize("value", [0, 1, None, "True"])
def test_bools(value):
    assert require_bool("x", value=True)
    with pytest.raises(ValueError, match=r"`x` must be a bool\. Received: x="):
        require_bool("x", value)


@pytest.mark.parametrize("value", ["d", "", None, 1, ["a"]])
def test_choices(value):
    assert require_choice("x", "b", ("a", "b", "c")) == "b"
    with pytest.raises(ValueError, match=r"`x` must be 'a', 'b' or 'c'\. Received: x="):
        require_choice("x", value, iter("abc"))
    with pytest.raises(ValueError, match=r"`x` must be 'a'\. Received: x="):
        require_choice("x", value, ["a"])
