"""The file that holds what callbacks know."""

import json
import math

import keras
import numpy as np
import pytest

from keras_branch_prune.training.callback_states import Stateful, read_states, write_states


class Memory(keras.callbacks.Callback):
    def __init__(self, state=None):
        super().__init__()
        self.state = state

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = state


class OtherMemory(Memory):
    pass


def test_round_trip(tmp_path):
    bfloat16 = np.array(keras.ops.convert_to_numpy(keras.ops.ones((2, 3), "bfloat16")))
    state = {
        "nothing": None,
        "scalars": [1, 0.1, True, "text", -math.inf],
        "nested": {"array": np.arange(6).reshape(2, 3), "list": [{"dict": np.float32([1.5])}]},
        "special": [bfloat16, np.array(7, "int32"), np.array([True])],
    }
    write_states(tmp_path / "a.npz", [Memory(state), Memory({})])
    first, second = Memory(), Memory()
    read_states(tmp_path / "a.npz", [first, second])
    assert second.state == {}
    assert first.state["scalars"] == state["scalars"]
    assert first.state["nothing"] is None
    np.testing.assert_array_equal(first.state["nested"]["array"], state["nested"]["array"])
    assert first.state["nested"]["list"][0]["dict"].dtype == np.float32
    for actual, expected in zip(first.state["special"], state["special"], strict=True):
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("value", [object(), {1: 2}, np.float32(1), np.array([None])])
def test_nothing_else_can_be_written(tmp_path, value):
    with pytest.raises(TypeError, match="The state of a callback must consist of dicts"):
        write_states(tmp_path / "a.npz", [Memory({"value": value})])
    assert list(tmp_path.iterdir()) == []


def test_other_callbacks(tmp_path):
    write_states(tmp_path / "a.npz", [Memory({})])
    other = OtherMemory("untouched")
    with pytest.raises(ValueError, match=r"\['Memory'\]\. Received: \['OtherMemory'\]"):
        read_states(tmp_path / "a.npz", [other])
    assert other.state == "untouched"


def test_no_pickles(tmp_path):
    text = json.dumps([{"class": "Memory", "state": {"array": "0", "dtype": "object"}}])
    np.savez(tmp_path / "a.npz", **{"states": np.array(text), "0": np.array([{}], object)})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_states(tmp_path / "a.npz", [Memory()])


def test_who_is_stateful():
    assert isinstance(Memory(), Stateful)
    assert not isinstance(keras.callbacks.History(), Stateful)
