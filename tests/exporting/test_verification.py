"""An export is compared with its model, and deleted if it differs."""

import os

import keras
import numpy as np
import pytest
from helpers.export_cases import cnn
from keras import layers

from keras_branch_prune.exporting import saved_model as export
from keras_branch_prune.exporting import verification as verify
from keras_branch_prune.exporting.saved_model import export_saved_model
from keras_branch_prune.exporting.verification import ExportError


def test_a_mismatch_is_deleted_and_the_old_export_stays(tmp_path, monkeypatch):
    path = export_saved_model(cnn(), tmp_path / "saved", verify=False)
    before = (path / "saved_model.pb").read_bytes()
    wrong = np.ones((1, 3), "float32")
    monkeypatch.setattr(verify, "_reload_and_run", lambda *args: [[wrong], [wrong]])
    with pytest.raises(
        ExportError, match=r"differs from 'third' at output 'scores'.*allowed 1e-05"
    ):
        export_saved_model(cnn("third"), path)
    assert (path / "saved_model.pb").read_bytes() == before
    assert os.listdir(tmp_path) == ["saved"]


def test_an_export_that_cannot_be_loaded_is_deleted(tmp_path, monkeypatch):
    def write(form, names, folder, freeze):
        folder.mkdir()
        (folder / "saved_model.pb").write_bytes(b"nonsense")

    monkeypatch.setattr(export, "_write", write)
    with pytest.raises(ExportError, match=r"fresh process; nothing was written(.|\n)*Error"):
        export_saved_model(cnn(), tmp_path / "saved")
    assert os.listdir(tmp_path) == []


def test_wrong_shapes_and_missing_answers_are_mismatches(tmp_path, monkeypatch):
    monkeypatch.setattr(
        verify, "_reload_and_run", lambda *args: [[np.zeros((1, 1), "float32")]] * 2
    )
    with pytest.raises(ExportError, match="= inf"):
        export_saved_model(cnn(), tmp_path / "saved")


def test_half_precision_has_a_wider_bar():
    policies = {"float32": 1e-5, "mixed_float16": 1e-2, "mixed_bfloat16": 1e-1}
    for policy, bar in policies.items():
        inputs = keras.Input((4,))
        assert verify._tolerance(keras.Model(inputs, layers.Dense(2, dtype=policy)(inputs))) == bar
