"""How fast α falls by each callback, and what their arguments must be."""

import math

import pytest
from helpers.alpha_meter import TENTHS, feed

import keras_branch_prune as kbp
from keras_branch_prune.alpha.schedules import LinearDecay, ScheduleType, StepDecay


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (kbp.AlphaStepDecay(), [*TENTHS, 0.0]),
        (kbp.AlphaStepDecay(0.5, every=2), [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]),
        (kbp.AlphaStepDecay(0.5, threshold=0.5), [1.0, 0.0, 0.0]),
        (kbp.AlphaExponentialDecay(math.log(4), threshold=0.2), [1.0, 0.25, 0.0]),
        (kbp.AlphaMultiplicativeDecay(0.5), [1, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0]),
        (kbp.AlphaLinearDecay(4), [1.0, 0.75, 0.5, 0.25, 0.0]),
        (kbp.AlphaCosineDecay(4), [1.0, 0.8535534, 0.5, 0.14644662, 0.0]),
        (kbp.AlphaReduceOnPlateau(0.5, "loss", 1), [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]),
        (kbp.AlphaCallback(StepDecay(0.5)), [1.0, 0.5, 0.0]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, kbp.AlphaCallback) else "",
)
def test_alpha_of_each_epoch(callback, expected):
    assert feed(callback, "loss", [0.0] * len(expected)) == expected


@pytest.mark.parametrize(
    ("monitor", "direction"),
    [
        ("loss", "min"),
        ("val_loss", "min"),
        ("val_decoder_loss", "min"),
        ("mean_squared_error", "min"),
        ("val_sparse_categorical_crossentropy", "min"),
        ("mae", "min"),
        ("acc", "max"),
        ("val_sparse_top_k_categorical_accuracy", "max"),
        ("val_accuracy_1", "max"),
        ("auc", "max"),
        ("f1_score", "max"),
        ("mean_io_u_2", "max"),
    ],
)
def test_tells_the_direction_from_the_name(monitor, direction):
    assert kbp.AlphaStepDecay(monitor=monitor).mode == direction


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "`every` must be an integer of at least 1. Received: every=0"),
        ({"every": 1.5}, "`every` must be an integer .* every=1.5"),
        ({"unit": "step"}, "`unit` must be 'epoch' or 'batch'. Received: unit='step'"),
        ({"monitor": "loss", "patience": -1}, "`patience` must be .* at least 0. Received"),
        ({"monitor": "loss", "mode": "up"}, "`mode` must be 'auto', 'min' or 'max'. Received"),
        ({"monitor": "fid"}, "`mode` must be 'min' or 'max' for monitor='fid'.*Received"),
        ({"monitor": "loss", "min_delta": -1}, "`min_delta` must be .* Received: min_delta=-1"),
        ({"monitor": "loss", "min_delta": None}, "`min_delta` must be .* Received"),
        ({"monitor": "loss", "unit": "batch"}, "`monitor` cannot be combined .*unit='batch'"),
        ({"monitor": "loss", "every": 2}, "`monitor` cannot be combined .*every=2"),
        ({"step_size": 0}, "`step_size` must be .* Received: step_size=0"),
        ({"threshold": 1}, "`threshold` must be .* Received: threshold=1"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        kbp.AlphaStepDecay(**options)


def test_plateau_needs_a_metric():
    with pytest.raises(ValueError, match="`monitor` must be the name of a metric"):
        kbp.AlphaReduceOnPlateau(monitor=None)


def test_schedule_must_be_one():
    with pytest.raises(ValueError, match=r"`schedule` must be an AlphaSchedule\. Received"):
        kbp.AlphaCallback(0.1)


@pytest.mark.parametrize("kind", ScheduleType)
def test_make_alpha_callback(kind):
    parameter = 3.0 if kind in (ScheduleType.LINEAR, ScheduleType.COSINE) else 0.25
    callback = kbp.make_alpha_callback(kind, parameter, monitor="loss", patience=4, threshold=0.1)
    assert parameter in vars(callback.schedule).values()
    assert (callback.monitor, callback.patience, callback.schedule.threshold) == ("loss", 4, 0.1)
    assert kbp.make_alpha_callback(kind).schedule == type(callback)().schedule
    assert kind.name.replace("_", "") in type(callback).__name__.upper()


def test_make_alpha_callback_refuses():
    with pytest.raises(ValueError, match=r"`schedule` must be a ScheduleType\. Received"):
        kbp.make_alpha_callback("step")
    with pytest.raises(ValueError, match="`steps` must be an integer"):
        kbp.make_alpha_callback(ScheduleType.LINEAR, 2.5)
    assert kbp.make_alpha_callback(ScheduleType.LINEAR, 20.0).schedule == LinearDecay(20)
