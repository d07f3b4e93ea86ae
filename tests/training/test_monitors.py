"""Metrics in logs: better, worse, missing."""

import math

import pytest

from keras_branch_prune.training.monitors import improves, report_missing, resolve_mode


def test_improves_needs_no_second_best():
    assert improves(1.0, math.nan, "min")
    assert not improves(math.nan, math.nan, "min")
    assert not improves(math.nan, math.inf, "min")
    assert improves(-math.inf, 0.0, "min")


def test_direction():
    assert resolve_mode("val_loss", "auto") == "min"
    assert resolve_mode("val_loss", "max") == "max"
    assert resolve_mode(None, "auto") == "auto"
    with pytest.raises(ValueError, match="`mode` must be 'auto', 'min' or 'max'"):
        resolve_mode(None, "up")
    with pytest.raises(ValueError, match="whose name does not tell"):
        resolve_mode("val_thing", "auto")


def test_what_is_missing():
    logs = {"loss": 1.0, "alpha": 1.0, "learning_rate": 0.1}
    with pytest.warns(UserWarning, match=r"alpha waits for monitor='val_auc'.*Logged: \['loss'\]"):
        report_missing("val_auc", logs, waiting="alpha")
    with pytest.raises(ValueError, match=r"one of the logged metrics \['loss'\]\. Received"):
        report_missing("auc", logs, waiting="alpha")
    with pytest.raises(ValueError, match="one of the logged metrics"):
        report_missing("val_auc", {**logs, "val_loss": 1.0}, waiting="alpha")
