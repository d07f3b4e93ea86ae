"""Losses and weights that are no longer numbers."""

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
from keras_branch_prune.training.divergence import has_diverged


class Explode(keras.callbacks.Callback):
    """Makes a weight infinite at the beginning of an epoch, or after its last batch."""

    def __init__(self, epoch, batch=0):
        super().__init__()
        self.when = (epoch, batch)
        self.batches = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.when:
            self.explode()
        self.batches += 1

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (self.when[0], self.when[1] - 2):
            self.explode()

    def explode(self):
        kernel = self.model.layers[-1].kernel
        kernel.assign(np.full(kernel.shape, np.inf))


def test_has_diverged():
    model = plain_model()
    assert not has_diverged(model, {})
    assert not has_diverged(model, {"loss": 1.0, "val_loss": math.nan})
    assert has_diverged(model, {"loss": math.nan})
    assert has_diverged(model, {"loss": np.float32("inf")})
    assert not has_diverged(model, {"loss": 1.0, "head_loss": math.nan})
    assert not has_diverged(model, {"a_loss": 1.0, "val_a_loss": math.nan, "a": math.nan})
    assert has_diverged(model, {"a_loss": 1.0, "b_loss": math.inf})
    model.layers[-1].bias.assign([math.nan])
    assert has_diverged(model, {"loss": 1.0})


@pytest.mark.parametrize("batch", [0, 1, 3], ids=["first", "second", "after the last"])
def test_stops_in_the_last_good_state(batch):
    model, expected = small_branched_model(), small_branched_model()
    fit(expected, [kbp.AlphaStepDecay(0.1)], 3)
    guard = kbp.StopOnNonFinite()
    message = r"diverged in epoch 4 at alpha 0\.7.*Lower the learning rate.*clip"
    with pytest.warns(UserWarning, match=message):
        history = fit(model, [Explode(3, batch), kbp.AlphaStepDecay(0.1), guard], 6)
    assert guard.stopped_epoch == 3
    assert len(history["loss"]) == 4
    assert_same_state(weights_of(model), weights_of(expected))
    assert kbp.get_alpha(model) == 0.7


def test_in_the_first_epoch_the_state_at_the_beginning_is_restored():
    model = plain_model()
    fit(model, [], 1)
    before = weights_of(model)
    with pytest.warns(UserWarning, match=r"diverged in epoch 1: its loss \((nan|inf)\)"):
        fit(model, [Explode(0), kbp.StopOnNonFinite()], 2)
    assert_same_state(weights_of(model), before)


def test_the_epoch_is_broken_off():
    explode = Explode(1)
    x = np.ones((400, 6))
    with pytest.warns(UserWarning, match="diverged in epoch 2"):
        fit(plain_model(), [explode, kbp.StopOnNonFinite()], 3, x=x, y=x[:, :1])
    assert explode.batches == 101


def test_a_scripted_loss_and_a_second_fit():
    guard, model = kbp.StopOnNonFinite(), plain_model()
    with pytest.warns(UserWarning, match="diverged in epoch 2"):
        fit(model, [Script("loss", [1.0, math.inf]), guard], 4)
    assert guard.stopped_epoch == 1
    assert len(fit(model, [guard], 2)["loss"]) == 2
    assert guard.stopped_epoch is None


def test_batches_are_not_waited_for():
    assert kbp.StopOnNonFinite().async_safe


def test_backup_keeps_the_last_good_state(tmp_path):
    model = small_branched_model()
    backup = kbp.EpochBackup(tmp_path)
    with pytest.warns(UserWarning, match="diverged in epoch 3"):
        fit(model, [Explode(2), kbp.StopOnNonFinite(), backup], 6)
    again = small_branched_model()
    assert kbp.EpochBackup(tmp_path).restore(again) == 2
    assert_same_state(weights_of(again), weights_of(model))
