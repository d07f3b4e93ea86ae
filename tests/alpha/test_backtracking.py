"""Steps of α that are taken, grown, taken back, and given up."""

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
from keras_branch_prune.layers.alpha import alpha_layer

GOOD, BAD = 0.9, 0.5


def run(values, *, model=None, before=(), after=(), **options):
    """Fits with a scripted metric; returns the callback, the history and the model."""
    callback = kbp.AlphaBacktracking(**options)
    model = model or small_branched_model()
    callbacks = [*before, Script(callback.monitor, values), callback, *after]
    return callback, fit(model, callbacks, len(values)), model


def feed(values, *, model=None, callback=None, **options):
    """As `run`, but trains nothing: calls the callback's methods only."""
    callback = callback or kbp.AlphaBacktracking(**options)
    model = model or small_branched_model()
    callback.set_model(model)
    callback.on_train_begin()
    history = {}
    for epoch, value in enumerate(values):
        logs = {"loss": 0.0, callback.monitor: value}
        callback.on_epoch_end(epoch, logs)
        for name, logged in logs.items():
            history.setdefault(name, []).append(logged)
    return callback, history, model


@pytest.mark.parametrize(
    ("options", "values", "alphas", "steps"),
    [
        # Two steps, then larger ones; the third would be below 0.
        (
            {"step_size": 0.2},
            [GOOD] * 6,
            [1.0, 0.8, 0.6, 0.2, 0.0, 0.0],
            [0.2, 0.2, 0.2, 0.4, 0.4, 0.4],
        ),
        ({"growth": 1.0}, [GOOD] * 4, [1.0, 0.9, 0.8, 0.7], [0.1] * 4),
        ({"successes": 1, "step_size": 0.05}, [GOOD] * 4, [1.0, 0.95, 0.85, 0.65], None),
        # A step recovers in time.
        ({"patience": 3}, [GOOD, BAD, BAD, GOOD, GOOD], [1.0, 0.9, 0.9, 0.9, 0.8], None),
        # A step does not: half of it is tried, and succeeds; the series begins again.
        (
            {"patience": 2, "growth": 4.0},
            [GOOD, GOOD, BAD, BAD, GOOD, GOOD, GOOD],
            [1.0, 0.9, 0.8, 0.8, 0.85, 0.8, 0.6],
            [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.2],
        ),
        # The last step is shorter than the step size; one that ends elsewhere is tried.
        (
            {"step_size": 0.8, "patience": 1, "growth": 1.0},
            [GOOD, GOOD, BAD, GOOD, GOOD],
            [1.0, 0.2, 0.0, 0.1, 0.0],
            [0.8, 0.8, 0.8, 0.1, 0.1],
        ),
        # Snapped to 0.
        ({"step_size": 0.5, "threshold": 0.5}, [GOOD] * 2, [1.0, 0.0], None),
        # A drop of exactly `max_drop` is tolerated, in float32.
        ({}, [0.9, 0.88, np.float32(0.88), 0.879], [1.0, 0.9, 0.8, 0.6], None),
        ({"max_drop": 0.0}, [0.9, 0.9, 0.8999], [1.0, 0.9, 0.8], None),
        # The reference is the value at α = 1, not a better one later on.
        ({}, [0.9, 0.99, 0.9, 0.9], [1.0, 0.9, 0.8, 0.6], None),
        ({"reference": 0.95}, [0.9, 0.9, 0.9, 0.94, 0.94], [1.0, 1.0, 1.0, 1.0, 0.9], None),
        ({"monitor": "val_loss"}, [1.0, 1.01, 1.03, 0.5], [1.0, 0.9, 0.8, 0.8], None),
        ({"monitor": "val_score", "mode": "max"}, [1.0, 1.5, 1.5], [1.0, 0.9, 0.8], None),
    ],
)
def test_alpha_of_each_epoch(options, values, alphas, steps):
    _, history, _ = feed(values, **options)
    assert history["alpha"] == alphas
    if steps is not None:
        np.testing.assert_allclose(history["alpha_step"], steps, rtol=1e-12)


def test_the_state_of_the_last_good_epoch_is_restored():
    seen = []

    class Record(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(weights_of(self.model))

    # Before the callback, after it.
    values = [GOOD, GOOD, BAD, BAD, GOOD]
    _, history, model = run(values, before=[Record()], after=[Record()], patience=2)
    assert history["alpha_rollback"] == [0.0, 0.0, 0.0, 1.0, 0.0]
    good, restored, failed = seen[2], seen[7], seen[6]
    own = {id(v) for v in alpha_layer(model).variables}
    others = [id(v) not in own for v in model.variables + model.optimizer.variables]
    for before, after, worse, compared in zip(good, restored, failed, others, strict=True):
        if compared:
            np.testing.assert_array_equal(after, before)
            if before.size > 1:
                assert not np.array_equal(worse, before)
    assert history["alpha"] == [1.0, 0.9, 0.8, 0.8, 0.85]


def test_the_alpha_layer_counts_steps_in_force():
    _, _, model = feed([GOOD, GOOD, BAD, GOOD, BAD], patience=1)
    layer = alpha_layer(model)
    assert int(layer.step) == 3  # 0.9, then 0.8 failed, 0.85, then 0.8 failed, 0.825
    assert kbp.get_alpha(model) == 0.825
    _, _, model = feed([GOOD, BAD, 0.6], patience=5)
    assert int(alpha_layer(model).wait) == 2
    assert float(alpha_layer(model).best) == np.float32(0.6)


def test_finished():
    callback, history, model = feed([GOOD, GOOD, BAD, BAD], step_size=1.0, patience=1)
    assert callback.finished
    assert history["alpha"] == [1.0, 0.0, 0.0, 0.0]
    assert history["alpha_rollback"] == [0.0] * 4
    assert fit(model, [callback], 1)["alpha"] == [0.0]  # Needs no metric any more.


def test_alpha_zero_must_prove_itself():
    callback, history, _ = feed([GOOD, BAD, GOOD], step_size=1.0, patience=1)
    assert not callback.finished
    assert history["alpha"] == [1.0, 0.0, 0.5]


def test_training_stops_where_zero_has_proved_itself():
    decay = kbp.AlphaBacktracking(1.0, patience=2)
    script = Script("val_accuracy", [GOOD, BAD, GOOD, GOOD, GOOD])
    model = small_branched_model()
    history = fit(model, [script, decay, kbp.StopAtAlphaZero(decay)], 5)
    assert history["alpha"] == [1.0, 0.0, 0.0]
    assert decay.finished


# Giving up


def test_gives_up():
    seen = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(weights_of(record.model))
    )
    callback = kbp.AlphaBacktracking(patience=2, min_step=0.04)
    model = small_branched_model()
    script = Script("val_accuracy", [GOOD, GOOD, BAD, BAD, BAD, 0.7, GOOD])
    message = (
        r"last good state, at alpha 0\.9: at alpha 0\.85, val_accuracy reached 0\.7 where 0\.88 "
        r"was needed, .* smaller than min_step=0\.04\. Allow a larger `max_drop`"
    )
    with pytest.warns(UserWarning, match=message):
        history = fit(model, [script, record, callback], 7)
    assert callback.gave_up
    assert callback.finished
    assert not callback.search.reached_zero
    assert history["alpha"] == [1.0, 0.9, 0.8, 0.8, 0.85, 0.85]
    assert kbp.get_alpha(model) == 0.9
    assert_same_state(weights_of(model), seen[1])


def test_a_later_fit_tries_again():
    with pytest.warns(UserWarning, match="where 0.88 was needed"):
        callback, _, model = feed([GOOD, BAD], patience=1, step_size=0.2, min_step=0.2)
    assert callback.gave_up
    _, history, _ = feed([BAD, BAD, GOOD, GOOD], model=model, callback=callback)
    assert not callback.gave_up
    assert not callback.finished
    # At the last good α no step is under trial that could be taken back.
    assert history["alpha"] == [1.0, 1.0, 1.0, 0.8]


def test_a_step_that_ends_where_the_last_one_failed_is_not_tried_again():
    with pytest.warns(UserWarning, match="at alpha 0.02: at alpha 0, "):
        callback, history, _ = feed([GOOD, GOOD, BAD], step_size=0.98, patience=1)
    assert history["alpha"] == [1.0, 0.02, 0.0]
    assert callback.gave_up


# Divergence


@pytest.mark.parametrize("name", ["loss", "val_accuracy"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_takes_the_step_back_at_once(name, value):
    callback, _, model = feed([GOOD])
    logs = {"loss": 0.0, "val_accuracy": GOOD, name: value}
    callback.on_epoch_end(1, logs)
    assert (logs["alpha"], logs["alpha_rollback"]) == (0.9, 1.0)
    assert kbp.get_alpha(model) == 0.95


def test_nan_before_the_first_step_is_waited_out():
    _, history, _ = feed([math.nan, GOOD, GOOD])
    assert history["alpha"] == [1.0, 1.0, 0.9]


class Poison(keras.callbacks.Callback):
    """Makes weights NaN in the second epoch: at its beginning, or after its last batch."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 1 and batch == self.last:
            self.model.layers[-1].bias.assign([math.nan])


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("guards", [[], [kbp.StopOnNonFinite], [keras.callbacks.TerminateOnNaN]])
def test_rollback_comes_before_stopping(last, guards):
    made = [guard() for guard in guards]
    values = [GOOD] * 4
    _, history, model = run(values, before=[Poison(last)], after=made)
    assert history["alpha"] == [1.0, 0.9, 0.95, 0.9]
    assert np.isfinite(history["loss"][2:]).all()
    assert all(np.isfinite(w).all() for w in model.trainable_variables)
    assert all(getattr(guard, "stopped_epoch", None) is None for guard in made)


def test_giving_up_is_not_overruled_by_the_guard():
    guard = kbp.StopOnNonFinite()
    with pytest.warns(UserWarning, match="val_accuracy reached"):
        callback, history, model = run(
            [GOOD] * 4, before=[Poison(1)], after=[guard], step_size=0.1, min_step=0.1
        )
    assert callback.gave_up
    assert guard.stopped_epoch is None
    assert len(history["alpha"]) == 2
    assert kbp.get_alpha(model) == 1.0


def test_without_a_step_to_take_back_the_guard_stops():
    guard = kbp.StopOnNonFinite()
    with pytest.warns(UserWarning, match="diverged in epoch 2 at alpha 1"):
        run([None] * 3, before=[Poison(0)], after=[guard], monitor="loss", reference=-1.0)
    assert guard.stopped_epoch == 1


# In `fit`


class CountTraces(keras.layers.Layer):
    traces = 0

    def call(self, inputs):
        CountTraces.traces += 1
        return inputs


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"steps_per_execution": 2}])
def test_restoring_does_not_retrace(options):
    inner = small_branched_model()
    inputs = keras.Input((6,))
    model = keras.Model(inputs, inner(CountTraces()(inputs)))
    model.compile(keras.optimizers.Adam(0.01), "mse", **options)
    fit(model, [], 1)
    before = CountTraces.traces
    _, history, _ = run([GOOD, GOOD, BAD, BAD, GOOD], model=model, patience=1)
    assert history["alpha_rollback"] == [0.0, 0.0, 1.0, 1.0, 0.0]
    assert CountTraces.traces == before


def test_training_goes_on_as_from_the_good_state():
    """A rollback leaves no trace: what follows equals a run that took the small step at once."""
    _, history, model = run([GOOD, BAD, GOOD], patience=1, successes=9)
    _, expected_history, expected = run([GOOD, GOOD], step_size=0.05, successes=9)
    assert history["alpha"] == [1.0, 0.9, 0.95]
    assert history["loss"][2] == expected_history["loss"][1]
    for a, b in zip(model.trainable_variables, expected.trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_validation_in_some_epochs_only():
    x, y = np.ones((4, 6)), np.ones((4, 1))
    callback = kbp.AlphaBacktracking(monitor="val_loss", max_drop=100.0, growth=1.0)
    options = {"validation_data": (x, y), "validation_freq": 2}
    with pytest.warns(UserWarning, match="alpha waits for monitor='val_loss'"):
        history = fit(small_branched_model(), [callback], 5, **options)
    assert history["alpha"] == [1.0, 1.0, 0.9, 0.9, 0.8]


def test_unknown_metric():
    message = r"one of the logged metrics \['loss'\]\. Received: monitor='accuracy'"
    with pytest.raises(ValueError, match=message):
        fit(small_branched_model(), [kbp.AlphaBacktracking(monitor="accuracy")], 1)


def test_needs_a_branched_model_and_a_reference():
    with pytest.raises(ValueError, match="'plain' is not a branched model"):
        fit(plain_model(), [kbp.AlphaBacktracking()], 1)
    model = small_branched_model()
    kbp.set_alpha(model, 0.5)
    with pytest.raises(ValueError, match=r"`reference` must be given .* at alpha 0\.5"):
        feed([GOOD], model=model)
    _, history, _ = feed([BAD, GOOD, GOOD], model=model, reference=GOOD, patience=1)
    assert history["alpha"] == [0.5, 0.5, 0.4]
    kbp.set_alpha(model, 0.0)
    callback, history, _ = feed([BAD, GOOD], model=model)
    assert callback.finished
    assert history["alpha"] == [0.0, 0.0]


def test_prints(capsys):
    feed([GOOD, BAD, GOOD], patience=1)
    assert capsys.readouterr().out == ""
    feed([GOOD, BAD, GOOD], patience=1, verbose=1)
    output = capsys.readouterr().out
    assert "alpha: 1 -> 0.9 (step of 0.1)" in output
    assert "alpha: 0.9 -> 1 (taken back)" in output
    assert "alpha: 1 -> 0.95 (step of 0.05)" in output


# Resuming


VALUES = [GOOD, BAD, BAD, GOOD, GOOD, BAD, BAD, GOOD, BAD, BAD]
# 1.0, 0.9, 0.9, back: 0.95, 0.9, larger: 0.8, 0.8, back: 0.85, 0.8, 0.8, back.


def resumable(folder, epochs):
    callback = kbp.AlphaBacktracking(patience=2)
    model = small_branched_model()
    backup = kbp.EpochBackup(folder, [callback])
    done = backup.restore(model)
    script = Script("val_accuracy", VALUES)
    fit(model, [script, callback, backup], epochs, initial_epoch=done)
    return callback, backup.history, model


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return resumable(tmp_path_factory.mktemp("undisturbed"), len(VALUES))


@pytest.mark.parametrize("killed", [2, 4, 6])
def test_resumes_in_the_middle_of_a_recovery(tmp_path, undisturbed, killed):
    expected_callback, expected_history, expected = undisturbed
    resumable(tmp_path, killed)
    callback, history, model = resumable(tmp_path, len(VALUES))
    assert history == expected_history
    assert [row["alpha_rollback"] for row in history].count(1.0) == 3
    assert_same_state(weights_of(model), weights_of(expected))
    state, wanted = callback.get_state(), expected_callback.get_state()
    assert_same_state(state.pop("good")["variables"], wanted.pop("good")["variables"])
    assert state == wanted


def test_a_reference_given_anew_counts(tmp_path):
    callback = kbp.AlphaBacktracking(reference=0.5)
    callback.set_state({**kbp.AlphaBacktracking().get_state(), "reference": 0.9})
    assert callback.get_state()["reference"] == 0.5


def test_a_state_of_an_earlier_version_is_taken_over():
    """The keys, and a last good α without its state, as they were written before."""
    state = {"finished": True, "gave_up": False, "reference": 0.9, "step": 0.2, "series": 1}
    callback = kbp.AlphaBacktracking()
    callback.set_state({**state, "good": None, "good_alpha": 0.1})
    assert callback.finished
    assert callback.get_state() == {**state, "good": None, "good_alpha": 0.0}


# Arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0}, r"`step_size` must be a number in \(0, 1\]\. Received: step_size=0"),
        ({"step_size": 1.5}, "`step_size` must"),
        ({"monitor": ""}, "`monitor` must name a metric"),
        ({"monitor": None}, "`monitor` must name a metric"),
        ({"max_drop": -0.1}, "`max_drop` must be a number of at least 0"),
        ({"max_drop": math.nan}, "`max_drop` must"),
        ({"patience": 0}, "`patience` must be an integer of at least 1"),
        ({"reference": math.nan}, "`reference` must be a finite number or None"),
        ({"shrink": 1.0}, r"`shrink` must be a number in \(0, 1\)"),
        ({"growth": 0.5}, "`growth` must be a number of at least 1"),
        ({"successes": 0}, "`successes` must be an integer of at least 1"),
        ({"min_step": 0.2}, r"`min_step` must be a number in \(0, step_size\]"),
        ({"threshold": 1.0}, r"`threshold` must be a number in \[0, 1\)"),
        ({"mode": "up"}, "`mode` must be 'auto', 'min' or 'max'"),
        ({"monitor": "thing"}, "whose name does not tell"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        kbp.AlphaBacktracking(**options)
