"""Schedules: exact values, properties, messages."""

import dataclasses
import math
import pickle

import keras
import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from keras_branch_prune.alpha import schedules
from keras_branch_prune.alpha.schedules import (
    AlphaSchedule,
    CosineDecay,
    ExponentialDecay,
    LinearDecay,
    MultiplicativeDecay,
    ScheduleType,
    StepDecay,
)

THRESHOLDS = st.sampled_from([0.0, 0.015, 0.3])
SCHEDULES = st.one_of(
    st.builds(StepDecay, st.floats(1e-4, 1.0), threshold=THRESHOLDS),
    st.builds(ExponentialDecay, st.floats(1e-3, 10.0), threshold=THRESHOLDS),
    st.builds(MultiplicativeDecay, st.floats(0.01, 0.99), threshold=THRESHOLDS),
    st.builds(LinearDecay, st.integers(1, 10_000), threshold=THRESHOLDS),
    st.builds(CosineDecay, st.integers(1, 10_000), threshold=THRESHOLDS),
)


def values(schedule):
    return [schedule(step) for step in range(schedule.steps_to_zero + 1)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (StepDecay(), [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]),
        (StepDecay(0.1, threshold=0.0), [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]),
        (StepDecay(0.3), [1.0, 0.7, 0.4, 0.1, 0.0]),
        (StepDecay(1), [1.0, 0.0]),
        (MultiplicativeDecay(0.5), [1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0]),
        (MultiplicativeDecay(0.25, threshold=0.0625), [1.0, 0.25, 0.0]),
        (ExponentialDecay(math.log(4), threshold=0.1), [1.0, 0.25, 0.0]),
        (LinearDecay(4), [1.0, 0.75, 0.5, 0.25, 0.0]),
        (LinearDecay(4, threshold=0.25), [1.0, 0.75, 0.5, 0.0]),
        (CosineDecay(2), [1.0, 0.5, 0.0]),
    ],
    ids=repr,
)
def test_exact_values(schedule, expected):
    assert values(schedule) == pytest.approx(expected, rel=1e-15, abs=0)
    assert schedule(len(expected)) == schedule(10**9) == 0.0


def test_formulas():
    assert ExponentialDecay(0.5)(3) == math.exp(-1.5)
    assert CosineDecay(10)(3) == pytest.approx(0.5 + 0.5 * math.cos(0.3 * math.pi))
    assert LinearDecay(100)(98) == 0.02
    assert LinearDecay(100).steps_to_zero == 99  # 0.01 is below the threshold.


@given(SCHEDULES)
def test_falls_from_one_to_zero(schedule):
    assert schedule(0) == 1.0
    last = schedule.steps_to_zero
    assert schedule(last) == 0.0
    assert schedule(last - 1) > schedule.threshold
    steps = sorted({0, 1, 2, 3, last // 3, last // 2, last - 1, last, last + 1, 10 * last})
    sequence = [schedule(step) for step in steps]
    assert all(0.0 <= value <= 1.0 for value in sequence)
    assert sequence == sorted(sequence, reverse=True)


@given(SCHEDULES)
def test_repr_and_equality(schedule):
    same = eval(repr(schedule), vars(schedules).copy())
    assert same == schedule
    assert hash(same) == hash(schedule)
    assert dataclasses.replace(schedule, threshold=0.5) != schedule


def test_schedules_of_different_types_differ():
    assert LinearDecay(10) != CosineDecay(10)


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        StepDecay().step_size = 0.2


def test_accepts_numpy_numbers():
    assert LinearDecay(np.int64(4))(np.int32(1)) == 0.75
    assert StepDecay(np.float64(0.1))(7) == 0.3


@pytest.mark.parametrize("step", [-1, 1.0, True, None, "1"])
def test_wrong_step(step):
    with pytest.raises(
        ValueError, match=r"`step` must be an integer of at least 0\. Received: step="
    ):
        StepDecay()(step)


@pytest.mark.parametrize("schedule", [StepDecay, ExponentialDecay, LinearDecay, CosineDecay])
@pytest.mark.parametrize("threshold", [-0.1, 1, math.nan, None, "0", True])
def test_wrong_threshold(schedule, threshold):
    with pytest.raises(ValueError, match=r"`threshold` must be .*\[0, 1\).*Received: threshold="):
        schedule(threshold=threshold)


@pytest.mark.parametrize(
    ("schedule", "argument", "wrong"),
    [
        (StepDecay, "step_size", [0, -0.1, 1.1, math.nan, None, "0.1"]),
        (ExponentialDecay, "rate", [0, -1, math.inf, math.nan, None]),
        (MultiplicativeDecay, "factor", [0, 1, 1.5, -0.5, math.nan, None]),
        (LinearDecay, "steps", [0, -1, 2.0, True, 2**31, None]),
        (CosineDecay, "steps", [0, -1, 2.0, True, 2**31, None]),
    ],
)
def test_wrong_argument(schedule, argument, wrong):
    for value in wrong:
        with pytest.raises(ValueError, match=f"`{argument}` must be .* Received: {argument}="):
            schedule(**{argument: value})


@dataclasses.dataclass(frozen=True)
class Constant(AlphaSchedule):
    value: float = 0.5

    def decay(self, step):
        return self.value


def test_own_schedule():
    assert [Constant()(step) for step in range(3)] == [1.0, 0.5, 0.5]
    assert Constant(-3.0)(1) == 0.0
    with pytest.raises(ValueError, match=r"must reach 0 within .* Received: Constant"):
        _ = Constant().steps_to_zero
    for value in (1.5, math.nan):
        with pytest.raises(ValueError, match=r"`Constant.decay` must return at most 1"):
            Constant(value)(1)


def test_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        AlphaSchedule()


def test_schedule_type_is_a_flag():
    values = flags.FlagValues()
    flags.DEFINE_enum_class("schedule", ScheduleType.STEP, ScheduleType, "", flag_values=values)
    values(["program", "--schedule=reduce_on_plateau"])
    assert values.schedule is ScheduleType.REDUCE_ON_PLATEAU


def test_a_training_loop_of_ones_own_needs_no_model(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("A layer or a variable was made.")

    monkeypatch.setattr(keras.layers.Layer, "__init__", refuse)
    monkeypatch.setattr(keras.Variable, "__init__", refuse)
    schedule = pickle.loads(pickle.dumps(StepDecay(0.25)))  # Also in another process.
    assert [schedule(epoch) for epoch in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
