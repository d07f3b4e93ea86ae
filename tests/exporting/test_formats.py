"""What all formats but the SavedModel share."""

import importlib.util
import os

import keras
import numpy as np
import pytest
from helpers import export_cases

import keras_branch_prune as kbp
from keras_branch_prune.exporting import verification as verify
from keras_branch_prune.exporting.verification import ExportError
from keras_branch_prune.runtimes import process

FORMATS = {
    "litert": (kbp.export_litert, "m.tflite", "ai_edge_litert"),
    "onnx": (kbp.export_onnx, "m.onnx", "tf2onnx"),
    "openvino": (kbp.export_openvino, "m", "openvino"),
}
SLOW = "import sys, time\nprint(6 * 7, file=sys.stderr, flush=True)\ntime.sleep(60)"
each_format = pytest.mark.parametrize("extra", FORMATS)


@each_format
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, extra):
    export, name, package = FORMATS[extra]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == package else find(n))
    message = rf"missing {package}: pip install keras_branch_prune\[{extra}\]$"
    with pytest.raises(ImportError, match=message):
        export(export_cases.cnn(), tmp_path / "new" / name)
    assert os.listdir(tmp_path) == []


@each_format
def test_a_mismatch_is_deleted_and_the_old_export_stays(tmp_path, monkeypatch, extra):
    export, name, _ = FORMATS[extra]
    path = export(export_cases.cnn(), tmp_path / name, verify=False)
    before = export_cases.size(path)
    results = [[np.ones((1, 3), "float32")], [np.ones((3, 3), "float32")]]
    monkeypatch.setattr(verify, "_reload_and_run", lambda *args: results)
    with pytest.raises(ExportError, match=r"differs from 'third' at output 'scores'.*1e-05"):
        export(export_cases.cnn("third"), path)
    assert os.listdir(tmp_path) == [name]
    assert export_cases.size(path) == before


def test_a_file_that_the_runtime_refuses_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tensorflow.lite.TFLiteConverter.convert", lambda self: b"nonsense", raising=True
    )
    with pytest.raises(ExportError, match=r"fresh process; nothing was written(.|\n)*Error"):
        kbp.export_litert(export_cases.cnn(), tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == []


def test_a_file_that_the_runtime_does_not_come_to_an_end_with_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_START", SLOW)
    monkeypatch.setattr(verify, "_TIMEOUT_S", 1.0)
    message = r"fresh process; nothing was written. The process gave no answer in 1.0 s.*\n42$"
    with pytest.raises(ExportError, match=message):
        kbp.export_litert(export_cases.cnn(), tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("extra", ["litert", "onnx"])
def test_an_output_named_like_an_input(tmp_path, extra):
    export, name, _ = FORMATS[extra]
    path = export(export_cases.input_as_output(), tmp_path / name)
    assert b"features_1" in path.read_bytes()


@pytest.mark.parametrize("extra", ["litert", "openvino"])
def test_unknown_quantizations(tmp_path, extra):
    export, name, _ = FORMATS[extra]
    with pytest.raises(ValueError, match=r"one of None, 'float16'.*Received: quantize='int4'"):
        export(export_cases.cnn(), tmp_path / name, quantize="int4")


@pytest.mark.parametrize("extra", ["litert", "onnx"])
def test_targets_that_are_refused(tmp_path, extra):
    export, name, _ = FORMATS[extra]
    with pytest.raises(ValueError, match=r"`path` must end in '\.\w+'. Received: .*m\.keras"):
        export(export_cases.cnn(), tmp_path / "m.keras")
    (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match="must be a file. Received: the folder"):
        export(export_cases.cnn(), tmp_path / name)


@each_format
def test_wrong_models_and_backends(tmp_path, monkeypatch, extra):
    export, name, _ = FORMATS[extra]
    with pytest.raises(TypeError, match=r"must be a keras.Model. Received: dict"):
        export({}, tmp_path / name)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match=r"TensorFlow backend.*'jax'"):
        export(export_cases.cnn(), tmp_path / name)
    assert os.listdir(tmp_path) == []
