"""The plan and the branch that a run begins with."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.three_classes import RECIPE, TRAIN, prune

import keras_branch_prune as kbp


def test_given_calibration_data_serve_the_plan_and_the_branch(original, tmp_path):
    recipe = dataclasses.replace(RECIPE, finetune_epochs=0)
    given, folder = TRAIN[0][:40] + 1, tmp_path / "run"
    options = {"recipe": recipe, "alpha": kbp.AlphaStepDecay(1.0), "calibration": given}
    result = prune(original, folder, **options)
    assert dict(result.plan.target)["calibration"].startswith("40 samples")
    expected = kbp.branch(original, result.plan, calibration=given).get_weights()
    found = kbp.load_model(folder / "start.keras").get_weights()
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_sample_weights_are_used(original, tmp_path):
    nothing = np.zeros(len(TRAIN[1]), np.float32)
    recipe = dataclasses.replace(RECIPE, finetune_epochs=1)
    options = {"recipe": recipe, "width": 0.5, "verbose": 0, "alpha": kbp.AlphaStepDecay(1.0)}
    result = kbp.prune(original, (*TRAIN, nothing), output_dir=tmp_path / "run", **options)
    assert result.history["compact"][0]["loss"] == 0


def test_distillation_and_matching_are_logged(original, tmp_path):
    recipe = dataclasses.replace(RECIPE, finetune_epochs=1, distillation=0.5, matching=0.1)
    result = prune(original, tmp_path / "run", recipe=recipe, alpha=kbp.AlphaStepDecay(0.5))
    assert {"distillation_loss", "matching_loss"} <= set(result.history["branched"][0])
    assert "distillation_loss" in result.history["compact"][0]
    assert "matching_loss" not in result.history["compact"][0]


def test_a_finished_plan_is_taken(original, tmp_path):
    plan = kbp.plan(original, width={"conv1": 0.25})
    recipe = dataclasses.replace(RECIPE, finetune_epochs=0)
    alpha = kbp.AlphaStepDecay(1.0)
    result = prune(original, tmp_path / "run", plan=plan, recipe=recipe, alpha=alpha)
    assert result.plan == plan
    with pytest.raises(ValueError, match=r"`plan` is finished; .* Received: \['macs'\]"):
        prune(original, tmp_path / "other", plan=plan, macs=0.5)
