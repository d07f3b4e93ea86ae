"""Learning rates that rise at a plateau, and when α has become 0."""

import math

import keras
import numpy as np
import pytest
from helpers.small_models import (
    Script,
    assert_same_state,
    fit,
    plain_model,
    small_branched_model,
    weights_of,
)

import keras_branch_prune as kbp

WITH_SCHEDULE = keras.optimizers.schedules.CosineDecay(0.1, 10)


def feed(callback, values, others=(), model=None):
    """Calls the callbacks' methods, one value of `val_loss` per epoch; returns logged rates."""
    model = model or plain_model()
    for each in (callback, *others):
        each.set_model(model)
        each.on_train_begin()
    rates = []
    for epoch, value in enumerate(values):
        logs = {"loss": 0.0, "val_loss": value}
        for each in (callback, *others):
            each.on_epoch_begin(epoch)
        for each in (callback, *others):
            each.on_epoch_end(epoch, logs if each is callback else dict(logs))
        rates.append(logs["learning_rate"])
    return rates


def assert_rates(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


ROOT = 10**0.5

# IncreaseLROnPlateau


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        # Raised after two epochs without improvement, back in two, exactly.
        ({}, [3, 2, 2, 2, 2, 2, 1], [0.1, 0.1, 0.1, 0.1, 1.0, 0.1 * ROOT, 0.1]),
        ({"factor": 4.0, "decay_epochs": 1}, [2, 2, 2, 2, 1], [0.1, 0.1, 0.1, 0.4, 0.1]),
        ({"max_lr": 0.4}, [2, 2, 2, 2, 1, 1], [0.1, 0.1, 0.1, 0.4, 0.2, 0.1]),
        ({"max_lr": 0.05}, [2, 2, 2, 2, 2], [0.1] * 5),
        ({"min_delta": 0.5}, [3, 2.8, 2.6, 2], [0.1, 0.1, 0.1, 1.0]),
        ({"patience": 1}, [2, 1, math.nan, 1], [0.1, 0.1, 0.1, 1.0]),
        # While the rate falls nothing is counted (cooldown = decay_epochs); then it rises again.
        (
            {"patience": 1},
            [2] * 7,
            [0.1, 0.1, 1.0, 0.1 * ROOT, 1.0, 0.1 * ROOT, 1.0],
        ),
        (
            {"patience": 1, "cooldown": 4},
            [2] * 8,
            [0.1, 0.1, 1.0, 0.1 * ROOT, 0.1, 0.1, 1.0, 0.1 * ROOT],
        ),
        # Without cooldown the rate may rise again while it falls, and still ends where it was.
        (
            {"patience": 1, "cooldown": 0},
            [2, 2, 2, 1, 0, 0],
            [0.1, 0.1, 1.0, 1.0, 0.1 * ROOT, 0.1],
        ),
    ],
)
def test_rises_at_a_plateau_and_falls_back(options, values, expected):
    options = {"patience": 2, "decay_epochs": 2, **options}
    assert_rates(feed(kbp.IncreaseLROnPlateau(**options), values), expected)


class SetRate(keras.callbacks.Callback):
    def __init__(self, epoch, rate):
        super().__init__()
        self.epoch, self.rate = epoch, rate

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.model.optimizer.learning_rate = self.rate


def test_decays_to_a_rate_that_was_lowered_before_the_plateau():
    callback = kbp.IncreaseLROnPlateau(patience=2, decay_epochs=2)
    rates = feed(callback, [2, 2, 2, 2, 1, 1], [SetRate(0, 0.01)])
    # Still `factor` times the initial rate.
    assert_rates(rates, [0.1, 0.01, 0.01, 1.0, 0.1, 0.01])


def test_rising_again_while_it_falls_does_not_forget_a_lowered_rate():
    callback = kbp.IncreaseLROnPlateau(patience=1, decay_epochs=2, cooldown=0)
    rates = feed(callback, [2, 2, 2, 1, 0, 0], [SetRate(0, 0.01)])
    assert_rates(rates, [0.1, 0.01, 1.0, 1.0, 0.1, 0.01])


def test_decays_to_a_rate_that_was_lowered_meanwhile():
    callback = kbp.IncreaseLROnPlateau(patience=1, decay_epochs=3)
    rates = feed(callback, [2, 2, 1, 0.9, 0.5, 0.2], [SetRate(2, 0.02)])
    assert_rates(rates, [0.1, 0.1, 1.0, 0.02, 0.02, 0.02])


def test_goes_on_from_a_rate_that_was_lowered_meanwhile_but_is_still_raised():
    callback = kbp.IncreaseLROnPlateau(patience=1, decay_epochs=3)
    rates = feed(callback, [2, 2, 1, 0.9, 0.5, 0.2], [SetRate(2, 0.4)])
    assert_rates(rates, [0.1, 0.1, 1.0, 0.4, 0.2, 0.1])


def test_with_reduce_lr_on_plateau():
    callback = kbp.IncreaseLROnPlateau(patience=3, decay_epochs=1)
    reduce = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=2, cooldown=9)
    rates = feed(callback, [2, 2, 2, 2, 1, 1], [reduce])
    assert_rates(rates, [0.1, 0.1, 0.1, 0.05, 1.0, 0.05])


def test_in_fit():
    callback = kbp.IncreaseLROnPlateau("val_score", patience=1, decay_epochs=1, mode="max")
    history = fit(plain_model(), [Script("val_score", [1, 1, 2, 3]), callback], 4)
    assert_rates(history["learning_rate"], [0.1, 0.1, 1.0, 0.1])
    assert len(fit(plain_model(), [callback], 0)) == 0


def test_several_optimizers():
    optimizers = {"kernel": keras.optimizers.SGD(0.1, name="a")}
    default = keras.optimizers.SGD(0.01, name="b")

    def select(variable):
        return optimizers.get(variable.name, default)

    model = plain_model(keras.optimizers.MultiOptimizer(select))
    callback = kbp.IncreaseLROnPlateau("val_score", patience=1, decay_epochs=1, mode="max")
    history = fit(model, [Script("val_score", [1, 1, 2, 3]), callback], 4)
    assert_rates(history["learning_rate_a"], [0.1, 0.1, 1.0, 0.1])
    assert_rates(history["learning_rate_b"], [0.01, 0.01, 0.1, 0.01])


def test_missing_metric():
    with pytest.warns(UserWarning, match="the learning rate waits for monitor='val_loss'"):
        fit(plain_model(), [kbp.IncreaseLROnPlateau()], 1)
    with pytest.raises(ValueError, match=r"one of the logged metrics \['loss'\]\. Received"):
        fit(plain_model(), [kbp.IncreaseLROnPlateau("auc")], 1)


def test_prints(capsys):
    feed(kbp.IncreaseLROnPlateau(patience=1), [1, 1])
    feed(kbp.RewindLearningRate(2), [1, 1])
    assert capsys.readouterr().out == ""
    feed(kbp.IncreaseLROnPlateau(patience=1, verbose=1), [1, 1])
    feed(kbp.RewindLearningRate(2, learning_rate=0.5, verbose=1), [1, 1])
    output = capsys.readouterr().out
    assert "learning rate: [0.1" in output
    assert "-> [1.0]" in output
    assert "learning rate: set back to [0.5]" in output


# RewindLearningRate


def cosine(position):
    return 0.5 * (1 + math.cos(math.pi * position))


def test_rewinds_when_alpha_is_zero():
    model = small_branched_model(keras.optimizers.Adam(0.1))
    callbacks = [kbp.AlphaStepDecay(0.5), kbp.RewindLearningRate(4), SetRate(0, 0.03)]
    history = fit(model, callbacks, 8)
    assert history["alpha"][:3] == [1.0, 0.5, 0.0]
    expected = [0.1, 0.03, *(0.1 * cosine(n / 4) for n in range(5)), 0.0]
    np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-6, atol=1e-9)


def test_rewinds_a_model_without_alpha_from_the_first_epoch():
    callback = kbp.RewindLearningRate(2, learning_rate=0.4, final_factor=0.5)
    assert_rates(feed(callback, [1] * 4), [0.4, 0.3, 0.2, 0.2])
    assert_rates(feed(callback, [1]), [0.2])  # A second `fit` goes on.


def test_begins_anew_if_alpha_rises():
    model = small_branched_model(keras.optimizers.SGD(0.1))
    kbp.set_alpha(model, 0)
    callback = kbp.RewindLearningRate(2)
    assert_rates(feed(callback, [1, 1], model=model), [0.1, 0.05])
    kbp.set_alpha(model, 0.5)
    assert_rates(feed(callback, [1, 1], model=model), [0.05, 0.05])
    kbp.set_alpha(model, 0)
    assert_rates(feed(callback, [1, 1], model=model), [0.1, 0.05])


def test_a_step_taken_back_takes_the_rate_back():
    model = small_branched_model(keras.optimizers.SGD(0.1))
    backtracking = kbp.AlphaBacktracking(1.0, patience=1)
    script = Script("val_accuracy", [0.9, 0.1, 0.9, 0.9])
    rewind = kbp.RewindLearningRate(2, learning_rate=0.7)
    history = fit(model, [script, backtracking, rewind], 4)
    assert history["alpha"] == [1.0, 0.0, 0.5, 0.0]
    assert_rates(history["learning_rate"], [0.1, 0.1, 0.1, 0.7])


# Both


@pytest.mark.parametrize("make", [kbp.IncreaseLROnPlateau, lambda: kbp.RewindLearningRate(3)])
def test_schedules_cannot_be_changed(make):
    message = "created with a float `learning_rate`, so that .* can set it. Received: a `Learning"
    with pytest.raises(TypeError, match=message):
        fit(plain_model(keras.optimizers.SGD(WITH_SCHEDULE)), [make()], 1)
    with pytest.raises(TypeError, match=message):
        fit(plain_model(keras.optimizers.SGD(lambda: 0.1)), [make()], 1)


VALUES = [2, 2, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("killed", [2, 3, 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda: kbp.IncreaseLROnPlateau("val_score", patience=1, decay_epochs=3, mode="min"),
        lambda: kbp.RewindLearningRate(6, final_factor=0.1),
    ],
)
def test_resumes(tmp_path, make, killed):
    def train(folder, epochs):
        callback, model = make(), plain_model()
        backup = kbp.EpochBackup(folder, [callback])
        done = backup.restore(model)
        fit(model, [Script("val_score", VALUES), callback, backup], epochs, initial_epoch=done)
        return backup.history, model

    expected_history, expected = train(tmp_path / "undisturbed", 8)
    train(tmp_path / "killed", killed)
    history, model = train(tmp_path / "killed", 8)
    assert len({row["learning_rate"] for row in history}) > 3
    assert history == expected_history
    assert_same_state(weights_of(model), weights_of(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": None}, "`monitor` must name a metric"),
        ({"factor": 1.0}, r"`factor` must be a finite number above 1\. Received: factor=1.0"),
        ({"patience": -1}, "`patience` must be an integer of at least 0"),
        ({"decay_epochs": 0}, "`decay_epochs` must be an integer of at least 1"),
        ({"mode": "up"}, "`mode` must be 'auto', 'min' or 'max'"),
        ({"min_delta": -1.0}, "`min_delta` must be a finite number of at least 0"),
        ({"cooldown": -1}, "`cooldown` must be an integer of at least 0"),
        ({"max_lr": 0.0}, "`max_lr` must be a number above 0 or None"),
    ],
)
def test_wrong_arguments_of_increase(options, message):
    with pytest.raises(ValueError, match=message):
        kbp.IncreaseLROnPlateau(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be an integer of at least 1"),
        (
            {"epochs": 2, "learning_rate": 0},
            "`learning_rate` must be a positive number. Rec",
        ),
        ({"epochs": 2, "final_factor": 1.1}, r"`final_factor` must be a number in \[0, 1\]"),
    ],
)
def test_wrong_arguments_of_rewind(options, message):
    with pytest.raises(ValueError, match=message):
        kbp.RewindLearningRate(**options)
