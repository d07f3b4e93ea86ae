from __future__ import annotations

import json
import math
import shutil

import keras
import numpy as np
import pytest
from helpers.models import build, randomized
from helpers.small_models import small_branched_model

import keras_branch_prune as kbp
from keras_branch_prune.training.snapshot import build_optimizer


def branched_model():
    model = build("conv_bn")
    # Keras does not save the state of random number generators.
    model = randomized(keras.models.clone_model(model, clone_function=without_dropout), seed=3)
    result = kbp.branch(model, kbp.plan(model, width=0.5))
    result.compile(keras.optimizers.Adam(0.01), "mse")
    return result


def without_dropout(layer):
    if isinstance(layer, keras.layers.Dropout):
        return keras.layers.Identity(name=layer.name)
    return layer.__class__.from_config(layer.get_config())


class KilledError(Exception):
    pass


class KillAt(keras.callbacks.Callback):
    """Ends the training in the middle of an epoch, as a kill would."""

    def __init__(self, epoch):
        super().__init__()
        self.kill_epoch = epoch
        self.epoch = -1

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.kill_epoch and batch == 1:
            raise KilledError


def train(folder, *callbacks):
    model, backup = branched_model(), kbp.EpochBackup(folder)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 8, 8, 3)), rng.normal(size=(24, 4))
    done = backup.restore(model)
    decay = kbp.AlphaStepDecay(0.25, every=2)
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=10,
        initial_epoch=done,
        shuffle=False,
        verbose=0,
        callbacks=[decay, *callbacks, backup],
    )
    return model, backup.history


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, *train(folder)


@pytest.mark.parametrize("epoch", [0, 5])
def test_killed_and_resumed_training_equals_an_undisturbed_one(tmp_path, undisturbed, epoch):
    _, expected, expected_history = undisturbed
    with pytest.raises(KilledError):
        train(tmp_path, KillAt(epoch))
    resumed, history = train(tmp_path)
    assert history == expected_history
    assert [row["alpha"] for row in history] == [1, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0, 0]
    for a, b in zip(expected.get_weights(), resumed.get_weights(), strict=True):
        assert np.array_equal(a, b, equal_nan=True)


def test_one_backup_is_kept_and_a_finished_training_is_not_repeated(undisturbed):
    folder, model, _ = undisturbed
    assert sorted(p.name for p in folder.iterdir()) == ["epoch-000010.weights.h5", "history.json"]
    again, history = train(folder)
    assert len(history) == 10
    assert np.array_equal(model.get_weights()[0], again.get_weights()[0])


def test_a_kill_between_history_and_weights_loses_that_epoch_only(tmp_path, undisturbed):
    folder, _, rows = undisturbed
    shutil.copytree(folder, tmp_path / "copy")
    later = json.dumps([*rows, {"epoch": 10, "loss": 0.0}])
    (tmp_path / "copy" / "history.json").write_text(later)
    assert kbp.EpochBackup(tmp_path / "copy").history == rows


def test_a_failed_save_keeps_the_backup_before_it(tmp_path, monkeypatch):
    backup = kbp.EpochBackup(tmp_path)
    backup.set_model(branched_model())
    backup.model.optimizer.build(backup.model.trainable_variables)
    backup.on_epoch_end(0, {"loss": 1.0})

    def broken(path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(backup.model, "save_weights", broken)
    with pytest.raises(OSError, match="disk full"):
        backup.on_epoch_end(1, {"loss": 0.5})
    assert [p.name for p in tmp_path.glob("*.h5")] == ["epoch-000001.weights.h5"]
    assert kbp.EpochBackup(tmp_path).restore(branched_model()) == 1


def test_restore_needs_a_compiled_model(tmp_path):
    with pytest.raises(ValueError, match="`model` must be compiled"):
        kbp.EpochBackup(tmp_path).restore(build("mlp"))


# Callbacks that hold state


class Counter(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1

    def get_state(self):
        return {"epochs": self.epochs}

    def set_state(self, state):
        self.epochs = state["epochs"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def backed_up(folder, logs, callbacks=()):
    """Writes the backups of several epochs without training; returns the model."""
    backup, model = kbp.EpochBackup(folder, callbacks), small_branched_model()
    build_optimizer(model)
    backup.set_model(model)
    for epoch, row in enumerate(logs):
        for callback in callbacks:
            callback.on_epoch_end(epoch, row)
        backup.on_epoch_end(epoch, row)
    return model


def test_state_of_callbacks(tmp_path):
    callbacks = [Counter(), keras.callbacks.History(), Counter()]
    callbacks[2].epochs = 10
    backed_up(tmp_path, [{"loss": 1.0}] * 3, [callbacks[0], callbacks[2]])
    backup = kbp.EpochBackup(tmp_path, [Counter(), keras.callbacks.History(), Counter()])
    assert backup.restore(small_branched_model()) == 3
    assert [backup.callbacks[0].epochs, backup.callbacks[2].epochs] == [3, 13]
    expected = ["epoch-000003.callbacks.npz", "epoch-000003.weights.h5", "history.json"]
    assert names(tmp_path) == expected
    assert kbp.EpochBackup(tmp_path).restore(small_branched_model()) == 3  # Of the model only.


def test_a_kill_before_the_weights_keeps_the_state_before(tmp_path, monkeypatch):
    backed_up(tmp_path, [{"loss": 1.0}], [Counter()])
    counter, model = Counter(), small_branched_model()
    backup = kbp.EpochBackup(tmp_path, [counter])
    backup.restore(model)
    backup.set_model(model)
    counter.epochs = 77

    def broken(path):
        raise OSError("disk full")

    monkeypatch.setattr(model, "save_weights", broken)
    with pytest.raises(OSError, match="disk full"):
        backup.on_epoch_end(1, {"loss": 1.0})
    assert "epoch-000002.callbacks.npz" in names(tmp_path)
    assert backup.restore(small_branched_model()) == 1
    assert counter.epochs == 1


def test_backups_made_with_other_callbacks(tmp_path):
    backed_up(tmp_path / "without", [{"loss": 1.0}])
    message = r"holds no state of callbacks. Received: \['Counter'\]"
    with pytest.raises(ValueError, match=message):
        kbp.EpochBackup(tmp_path / "without", [Counter()]).restore(small_branched_model())
    backed_up(tmp_path / "with", [{"loss": 1.0}], [Counter()])
    message = r"\['Counter'\]\. Received: \['Counter', 'Counter'\]"
    with pytest.raises(ValueError, match=message):
        kbp.EpochBackup(tmp_path / "with", [Counter(), Counter()]).restore(small_branched_model())


def test_what_is_no_callback():
    with pytest.raises(ValueError, match="`callbacks` must be Keras callbacks. Received: 'text'"):
        kbp.EpochBackup("folder", ["text"])


# Divergence


def test_an_epoch_that_diverged_is_not_backed_up(tmp_path):
    rows = [{"loss": 1.0}, {"loss": math.nan}, {"loss": math.inf}]
    backed_up(tmp_path, rows, [Counter()])
    backup = kbp.EpochBackup(tmp_path, [Counter()])
    assert backup.restore(small_branched_model()) == 1
    assert backup.callbacks[0].epochs == 1
    assert [row["epoch"] for row in backup.history] == [0]


def test_weights_that_diverged_are_not_backed_up(tmp_path):
    model = backed_up(tmp_path, [{"loss": 1.0}])
    model.layers[-1].bias.assign([math.nan])
    backup = kbp.EpochBackup(tmp_path)
    backup.set_model(model)
    backup.on_epoch_end(1, {"loss": 1.0})
    assert backup.restore(small_branched_model()) == 1


def test_logs_of_an_epoch_that_diverged_are_kept_when_training_went_on(tmp_path):
    rows = [{"loss": 1.0}, {"loss": math.inf}, {"loss": 0.5}]
    backed_up(tmp_path, rows)
    later = [*kbp.EpochBackup(tmp_path).history, {"epoch": 3, "loss": 0.0}]
    (tmp_path / "history.json").write_text(json.dumps(later))  # Killed before the weights.
    backup = kbp.EpochBackup(tmp_path)
    assert backup.restore(small_branched_model()) == 3
    assert backup.history == [{"epoch": n, **row} for n, row in enumerate(rows)]


def test_saving_an_epoch_again_keeps_the_backup(tmp_path):
    backed_up(tmp_path, [{"loss": 1.0}])
    backed_up(tmp_path, [{"loss": 0.5}])
    backup = kbp.EpochBackup(tmp_path)
    assert backup.restore(small_branched_model()) == 1
    assert backup.history == [{"epoch": 0, "loss": 0.5}]


def test_history_of_a_training_that_began_later(tmp_path):
    backup = kbp.EpochBackup(tmp_path)
    backup.set_model(small_branched_model())
    backup.on_epoch_end(5, {"loss": 0.5})
    rows = [{"epoch": 5, "loss": 0.5}, {"epoch": 6, "loss": 0.4}]
    (tmp_path / "history.json").write_text(json.dumps(rows))  # Killed before the weights.
    assert backup.history == rows[:1]
