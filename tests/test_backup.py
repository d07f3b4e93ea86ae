from __future__ import annotations

import json
import shutil

import keras
import numpy as np
import pytest
from models import build, randomized

import keras_branch_prune as kbp


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
