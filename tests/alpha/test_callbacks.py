"""α callbacks: sequences, stalling, real training, interruption, messages."""

import contextlib
import csv
import math
import warnings

import keras
import numpy as np
import pytest
from helpers.alpha_meter import TENTHS, CallCounter, alpha_meter, feed, train
from helpers.small_models import small_branched_model

import keras_branch_prune as kbp

# What α is in which epoch


@pytest.mark.parametrize(
    "options",
    [{}, {"jit_compile": True}, {"steps_per_execution": 4}, {"run_eagerly": True}],
    ids=str,
)
def test_training_sees_alpha(options):
    history = train(alpha_meter(**options), kbp.AlphaStepDecay(0.25), epochs=6)
    assert history["alpha"] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert history["loss"] == history["val_loss"] == history["alpha"]


def test_training_sees_alpha_in_mixed_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = alpha_meter()
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("blend").output.dtype == "bfloat16"
    history = train(model, kbp.AlphaStepDecay(), epochs=11)
    assert history["alpha"] == TENTHS
    np.testing.assert_allclose(history["loss"], TENTHS, atol=2**-9)


@pytest.mark.parametrize(
    ("unit", "options"),
    [
        ("epoch", {}),
        ("epoch", {"jit_compile": True}),
        ("epoch", {"steps_per_execution": 4}),
        ("batch", {}),
    ],
    ids=str,
)
def test_moving_alpha_does_not_retrace(unit, options):
    model = alpha_meter(**options)
    train(model, kbp.AlphaStepDecay(0.01, unit=unit), epochs=1)
    before = CallCounter.calls
    history = train(model, kbp.AlphaStepDecay(0.01, unit=unit), epochs=3)
    assert len(set(history["alpha"])) == 3
    assert CallCounter.calls == before


# Counting batches


@pytest.mark.parametrize(
    ("batches", "per_execution", "every", "expected"),
    [
        (4, 1, 1, [0.96, 0.92, 0.88]),
        (4, 1, 3, [0.99, 0.98, 0.96]),
        (4, 4, 1, [0.96, 0.92, 0.88]),
        (10, 4, 1, [0.9, 0.8, 0.7]),  # The third execution of an epoch has two batches.
        (10, 4, 3, [0.97, 0.94, 0.9]),
    ],
)
def test_counts_batches(batches, per_execution, every, expected):
    model = alpha_meter(steps_per_execution=per_execution)
    callback = kbp.AlphaStepDecay(0.01, unit="batch", every=every)
    alphas = []
    for _ in expected:
        train(model, callback, 1, batches)
        alphas.append(kbp.get_alpha(model))
    assert alphas == expected


def test_batch_logs_hold_alpha_of_the_batch():
    seen = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(logs["alpha"])
    )
    model = alpha_meter()
    callback = kbp.AlphaStepDecay(0.1, unit="batch")
    history = train(model, None, 2, callbacks=[callback, record])
    assert seen == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    assert history["alpha"] == [0.6, 0.2]
    np.testing.assert_allclose(history["val_loss"], [0.6, 0.2], rtol=1e-6)
    np.testing.assert_allclose(history["loss"], [np.mean(seen[:4]), np.mean(seen[4:])], rtol=1e-6)


def test_only_counting_batches_needs_synchronous_batches():
    assert kbp.AlphaStepDecay(unit="epoch").async_safe
    assert not kbp.AlphaStepDecay(unit="batch").async_safe


# Waiting for a metric


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({}, [3, 2, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0.5, 0.5, 0.5]),
        ({}, [3, 4, 2, 4, 4, 9, 9, 9], [1, 1, 1, 1, 1, 0.5, 0.5, 0.5]),
        ({"patience": 0}, [1, 1, 1, 1], [1, 1, 0.5, 0.5]),
        ({"patience": 1}, [1, 1, 9, 8, 8, 8], [1, 1, 0.5, 0.5, 0.5, 0]),
        ({"mode": "max"}, [1, 2, 3, 3, 3, 9], [1, 1, 1, 1, 1, 0.5]),
        ({"mode": "max"}, [3, 2, 1, 1, 1, 1], [1, 1, 1, 0.5, 0.5, 0.5]),
        ({"min_delta": 0.1}, [1, 0.95, 0.91, 0, 0], [1, 1, 1, 0.5, 0.5]),
        ({"min_delta": 0.1}, [1, 0.95, 0.85, 0, 0], [1, 1, 1, 1, 1]),
        ({}, [math.nan, math.nan, 1, 1], [1, 1, 0.5, 0.5]),
        ({}, [1, math.nan, math.nan, 1], [1, 1, 1, 0.5]),
        ({}, [1, math.nan, 0.5, math.nan, 0.6, 1], [1, 1, 1, 1, 1, 0.5]),
        ({}, [0.1, 0.1, 0.1, 0.1], [1, 1, 1, 0.5]),  # 0.1 is no improvement on float32(0.1).
    ],
)
@pytest.mark.parametrize("monitor", ["val_loss", "loss"])
def test_steps_when_the_metric_has_stalled(monitor, options, values, expected):
    callback = kbp.AlphaStepDecay(0.5, monitor=monitor, **{"patience": 2, **options})
    assert feed(callback, monitor, values) == expected


def test_validation_in_some_epochs_only():
    model = alpha_meter()
    callback = kbp.AlphaReduceOnPlateau(patience=1)
    with pytest.warns(UserWarning, match="alpha waits for monitor='val_loss'.*validation_data"):
        history = train(model, callback, epochs=9, validation_freq=2)
    assert history["alpha"] == [1.0] * 4 + [0.5] * 4 + [0.25]


def test_no_validation_warns_in_the_first_epoch():
    with pytest.warns(UserWarning, match=r"no validation: .* Logged: \['loss'\]"):
        history = train(alpha_meter(), kbp.AlphaReduceOnPlateau(), epochs=1, validation=False)
    assert history["alpha"] == [1.0]


@pytest.mark.parametrize("monitor", ["val_accuracy", "accuracy"])
def test_unknown_metric(monitor):
    message = rf"must be one of the logged metrics \['loss', 'val_loss'\]. Received.*{monitor}"
    with pytest.raises(ValueError, match=message):
        train(alpha_meter(), kbp.AlphaStepDecay(monitor=monitor), epochs=1)


def test_the_metric_is_not_needed_once_alpha_is_zero():
    model = alpha_meter()
    kbp.set_alpha(model, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = train(model, kbp.AlphaReduceOnPlateau(), epochs=1, validation=False)
    assert history["alpha"] == [0.0]


# Where α shows


@pytest.mark.parametrize("given", [True, False])
def test_training_stops_at_alpha_zero(given):
    decay = kbp.AlphaStepDecay(0.5)
    assert not decay.finished
    stop = kbp.StopAtAlphaZero(decay) if given else kbp.StopAtAlphaZero()
    history = train(alpha_meter(), None, 9, callbacks=[decay, stop])
    assert history["alpha"] == [1.0, 0.5]
    assert decay.finished


def test_stops_for_nothing_but_an_alpha_callback():
    message = "`decay` must be an α callback or None. Received: decay="
    with pytest.raises(ValueError, match=message):
        kbp.StopAtAlphaZero(keras.callbacks.History())


def test_progress_and_csv_show_alpha(tmp_path, capsys):
    logger = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    model = alpha_meter()
    data = np.ones((2, 1)), np.zeros((2, 1))
    callback = kbp.AlphaStepDecay(0.1, verbose=1)
    model.fit(*data, epochs=3, verbose=2, callbacks=[callback, logger])
    output = capsys.readouterr().out
    assert "alpha: 0.9000" in output
    assert "alpha: 0.9 -> 0.8 (step 2)" in output
    with open(tmp_path / "log.csv", newline="") as file:
        assert [row["alpha"] for row in csv.DictReader(file)] == ["1.0", "0.9", "0.8"]


def test_quiet_by_default(capsys):
    train(alpha_meter(), kbp.AlphaStepDecay(), epochs=2)
    assert capsys.readouterr().out == ""


# Continuing


def test_second_fit_continues():
    model = alpha_meter()
    alphas = [train(model, kbp.AlphaStepDecay(0.25, every=2), epochs=3)["alpha"] for _ in range(3)]
    assert alphas == [[1.0, 1.0, 0.75], [0.75, 0.5, 0.5], [0.25, 0.25, 0.0]]


class Interrupt(keras.callbacks.Callback):
    """Raises in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.at = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.at and batch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("make_callback", "interrupted_at"),
    [
        (lambda: kbp.AlphaStepDecay(0.2, every=2), 3),
        (lambda: kbp.AlphaStepDecay(0.02, unit="batch", every=3), 4),
        pytest.param(
            lambda: kbp.AlphaReduceOnPlateau(patience=2, min_delta=10.0), 5, marks=pytest.mark.slow
        ),
        pytest.param(
            lambda: kbp.AlphaCosineDecay(8, monitor="loss", patience=1, min_delta=10.0),
            5,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["epochs", "batches", "plateau", "loss"],
)
def test_resumes_after_an_interruption(tmp_path, make_callback, interrupted_at):
    # At each of these epochs, counting is under way: `wait` or `best` must survive, too.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 6)), rng.normal(size=(20, 1))
    data = {"x": x, "y": y, "validation_data": (x, y), "batch_size": 4, "shuffle": False}

    def fit(*more):
        model = small_branched_model(keras.optimizers.SGD(0.05, momentum=0.9))
        history = keras.callbacks.History()
        used = [make_callback(), keras.callbacks.BackupAndRestore(tmp_path / "backup"), *more]
        with contextlib.suppress(KeyboardInterrupt):
            model.fit(**data, epochs=8, callbacks=[*used, history], verbose=0)
        return model, history.history["alpha"]

    expected_model, expected = fit()
    _, before = fit(Interrupt(interrupted_at))
    model, after = fit()
    assert len(before) == interrupted_at
    assert len(set(expected)) > 2
    assert before + after == expected
    for actual, wanted in zip(model.weights, expected_model.weights, strict=True):
        np.testing.assert_array_equal(actual, wanted, err_msg=actual.path)


def test_saved_model_continues(tmp_path):
    model = alpha_meter()
    train(model, kbp.AlphaReduceOnPlateau(patience=3), epochs=6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert kbp.get_alpha(loaded) == 0.5
    histories = [train(m, kbp.AlphaReduceOnPlateau(patience=3), epochs=6) for m in (model, loaded)]
    assert histories[0]["alpha"] == histories[1]["alpha"] == [0.5, 0.5] + [0.25] * 4


# An α that was set by hand


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, [0.5, 0.4, 0.3]), (0.55, [0.55, 0.5, 0.4]), (0.05, [0.05, 0.0, 0.0])],
)
def test_the_schedule_goes_on_below_an_alpha_set_by_hand(value, expected):
    model = alpha_meter()
    kbp.set_alpha(model, value)
    assert train(model, kbp.AlphaStepDecay(), epochs=3)["alpha"] == expected


def test_another_schedule_goes_on_below_alpha():
    model = alpha_meter()
    train(model, kbp.AlphaStepDecay(), epochs=3)
    assert kbp.get_alpha(model) == 0.7
    assert train(model, kbp.AlphaLinearDecay(5), epochs=4)["alpha"] == [0.7, 0.6, 0.4, 0.2]


def test_set_alpha_forgets_the_best_value():
    model = alpha_meter()
    callback = kbp.AlphaReduceOnPlateau(patience=2)
    feed(callback, "val_loss", [0.0, 0.0], model=model)
    kbp.set_alpha(model, 0.5)
    assert feed(callback, "val_loss", [5.0, 5.0, 5.0, 5.0], model=model) == [0.5, 0.5, 0.5, 0.25]


def test_set_alpha_restarts_the_count():
    model = alpha_meter()
    callback = kbp.AlphaStepDecay(0.1, every=3)
    feed(callback, "loss", [0.0, 0.0], model=model)
    kbp.set_alpha(model, 0.5)
    assert feed(callback, "loss", [0.0] * 4, model=model) == [0.5, 0.5, 0.5, 0.4]
