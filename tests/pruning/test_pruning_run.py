from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest
from helpers.three_classes import RECIPE, TRAIN, prune

import keras_branch_prune as kbp

DATA = np.ones((4, 2), np.float32), np.ones((4, 2), np.float32)
SETTINGS = {
    "model": "tiny, weights 1e89467e4470c8a5",
    "blend_epochs": 50,
    "finetune_epochs": 10,
    "learning_rate": None,
    "blend_learning_rate": None,
    "calibration_samples": 1000,
    "refine": False,
    "train_original": True,
    "stochastic": False,
    "reestimate_batch_norm": None,
    "distillation": 0.0,
    "temperature": 4.0,
    "matching": 0.0,
    "batch_size": 16,
    "seed": 3,
}
"""What version 0.1.0 wrote down of `tiny` and `Recipe(batch_size=16, seed=3)`."""


def tiny():
    layers = [keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2, name="head")]
    model = keras.Sequential([keras.Input((2,)), *layers], name="tiny")
    weights = model.get_weights()
    model.set_weights([np.arange(w.size, dtype=np.float32).reshape(w.shape) for w in weights])
    model.compile("sgd", "mse")
    return model


PLAN = kbp.plan(tiny(), width=0.5)
BEGUN_BY_0_1_0 = [
    (
        kbp.prune,
        lambda: {"width": 0.5, "scope": None},
        {
            "width": "0.5",
            "scope": "null",
            "alpha": "AlphaLinearDecay(every=1, min_delta=0.0, mode='auto', patience=10, "
            "schedule=LinearDecay(threshold=0.015, steps=5), unit='epoch', verbose=0)",
        },
    ),
    (
        kbp.prune,
        lambda: {"plan": PLAN, "alpha": kbp.AlphaBacktracking(0.25, max_drop=0.03)},
        {
            "plan": "223a3884fb35f534",
            "alpha": "AlphaBacktracking(finished=False, gave_up=False, growth=2.0, max_drop=0.03, "
            "min_step=0.01, mode='max', monitor='val_accuracy', patience=3, shrink=0.5, "
            "step_size=0.25, successes=2, threshold=0.015, verbose=0)",
        },
    ),
    (
        kbp.standard_prune,
        lambda: {"macs": 0.5, "saliency": "taylor", "loss": keras.losses.mean_squared_error},
        {"saliency": '"taylor"', "macs": "0.5", "loss": '"mean_squared_error"', "rounds": 5},
    ),
    (
        kbp.train_from_scratch,
        lambda: {"epochs": 3, "width": {"hidden": 0.5}},
        {"finetune_epochs": 3, "width": '{"hidden": 0.5}'},
    ),
]


@pytest.mark.parametrize(("prune", "options", "settings"), BEGUN_BY_0_1_0)
def test_a_run_that_version_0_1_0_began_can_be_gone_on_with(tmp_path, prune, options, settings):
    text = json.dumps({**SETTINGS, **settings, "of another version": 1}, indent=1)
    (tmp_path / "settings.json").write_text(text)
    # Were any other setting written in another way, it would be told.
    with pytest.raises(ValueError, match=r"other settings \(of another version: 1 -> None\)"):
        prune(
            tiny(),
            DATA,
            output_dir=tmp_path,
            recipe=kbp.Recipe(batch_size=16, seed=3),
            **options(),
        )


def test_a_loss_is_written_down_as_every_process_would_do_it(tmp_path):
    def written(case, delta):
        loss = keras.losses.Huber(delta=delta)
        options = {"output_dir": tmp_path / case, "callbacks": lambda: 1 / 0}
        with pytest.raises(ZeroDivisionError):
            kbp.standard_prune(tiny(), DATA, macs=0.5, saliency="taylor", loss=loss, **options)
        return json.loads((tmp_path / case / "settings.json").read_text())["loss"]

    one, same, other = written("one", 1.0), written("same", 1.0), written("other", 2.0)
    assert one == same != other
    assert "huber" in one
    assert " at 0x" not in one


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
