from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.models import build

from keras_branch_prune import EpochBackup, RunFolder


def test_a_stage_is_done_once(tmp_path):
    made = []

    def make(backup):
        made.append(backup)
        return build("mlp")

    run = RunFolder(tmp_path / "run", {"seed": 0})
    first = run.stage("original", make)
    second = RunFolder(tmp_path / "run", {"seed": 0}).stage("original", make)
    assert made == [tmp_path / "run" / "original.backup"]
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert run.history("original") == run.history("never done") == []


def test_a_stage_may_be_of_several_models(tmp_path):
    def make(backup):
        fit(models["generator"], backup)
        return models

    models = {"generator": build("mlp"), "discriminator": build("conv_bn")}
    run = RunFolder(tmp_path, {})
    made = run.stage("gan", make)
    again = run.stage("gan", lambda backup: pytest.fail("made again"))
    assert made.keys() == again.keys() == models.keys()
    for name, model in models.items():
        for one, other in zip(model.get_weights(), again[name].get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    assert made["generator"] is not run.load("gan")["generator"]
    assert [row["epoch"] for row in run.history("gan")] == [0, 1]
    assert {path.name for path in run.path("gan").iterdir()} == {
        "generator.keras", "discriminator.keras", "history.json",
    }  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"settings.json", "gan"}


def test_several_models_are_kept_together_or_not_at_all(tmp_path):
    run = RunFolder(tmp_path, {})
    with pytest.raises(AttributeError):
        run.stage("gan", lambda backup: {"generator": build("mlp"), "discriminator": None})
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_stages_may_lie_deeper(tmp_path):
    run = RunFolder(tmp_path, {})
    run.stage("fold_1/original", lambda backup: build("mlp"))
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("fold_1/*")}
    assert files == {"fold_1/original.keras", "fold_1/original.history.json"}


def test_a_stage_that_is_not_done_cannot_be_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="original"):
        RunFolder(tmp_path, {}).load("original")


def test_what_was_measured_is_not_measured_again(tmp_path):
    run, values = RunFolder(tmp_path, {}), [(1, 2), 3]
    assert run.once("sizes.json", lambda: values.pop(0)) == [1, 2]
    assert run.once("sizes.json", lambda: values.pop(0)) == [1, 2]
    assert run.read_json("sizes.json") == [1, 2]
    assert run.read_json("never.json") is None


def fit(model, folder):
    model.compile("sgd", "mse")
    inputs = np.ones((4, *model.input_shape[1:]))
    targets = np.ones((4, *model.output_shape[1:]))
    model.fit(inputs, targets, epochs=2, callbacks=[EpochBackup(folder)], verbose=0)
    return model


def test_the_history_of_a_stage_outlives_its_backup(tmp_path):
    run = RunFolder(tmp_path, {})
    run.stage("trained", lambda folder: fit(build("mlp"), folder))
    assert [row["epoch"] for row in run.history("trained")] == [0, 1]
    assert not run.path("trained.backup").exists()


def test_what_fails_leaves_no_stage(tmp_path):
    def fail(folder):
        raise RuntimeError("no")

    run = RunFolder(tmp_path, {})
    with pytest.raises(RuntimeError, match="no"):
        run.stage("original", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_other_settings_are_refused(tmp_path):
    RunFolder(tmp_path, {"width": 0.5, "seed": 0})
    RunFolder(tmp_path, {"seed": 0, "width": 0.5})
    with pytest.raises(ValueError, match=r"other settings \(extra: None -> 1, width: 0.5 -> 0.25"):
        RunFolder(tmp_path, {"width": 0.25, "seed": 0, "extra": 1})
    assert json.loads((tmp_path / "settings.json").read_text()) == {"width": 0.5, "seed": 0}


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"`output_dir` must be a new or empty .*'thesis.txt'"):
        RunFolder(tmp_path, {})
    assert [path.name for path in Path(tmp_path).iterdir()] == ["thesis.txt"]


def test_settings_are_compared_as_json_stores_them(tmp_path):
    RunFolder(tmp_path, {"shape": (1, 2)})
    RunFolder(tmp_path, {"shape": [1, 2]})
