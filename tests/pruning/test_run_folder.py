from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.models import build

from keras_branch_prune.pruning.run_folder import RunFolder
from keras_branch_prune.training.backup import EpochBackup


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


def test_the_history_of_a_stage_outlives_its_backup(tmp_path):
    def make(folder):
        model = build("mlp")
        model.compile("sgd", "mse")
        inputs = np.ones((4, *model.input_shape[1:]))
        targets = np.ones((4, *model.output_shape[1:]))
        model.fit(inputs, targets, epochs=2, callbacks=[EpochBackup(folder)], verbose=0)
        return model

    run = RunFolder(tmp_path, {})
    run.stage("trained", make)
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
