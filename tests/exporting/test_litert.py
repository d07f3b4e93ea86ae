import os

import pytest
from ai_edge_litert.interpreter import Interpreter
from helpers import export_cases
from helpers.export_cases import assert_round_trip, build, size

from keras_branch_prune.exporting.litert import export_litert
from keras_branch_prune.exporting.verification import ExportError


def _load(path):
    return Interpreter(str(path)).get_signature_runner("serving_default")


def _run(path):
    serve = _load(path)
    return lambda inputs: serve(**inputs)


def test_verified_in_a_fresh_process(tmp_path):
    model, path = export_cases.cnn(), tmp_path / "new" / "model.tflite"
    assert export_litert(model, str(path)) == path
    assert os.listdir(tmp_path / "new") == ["model.tflite"]
    details = _load(path).get_input_details()
    assert list(details) == ["image"]
    assert list(details["image"]["shape_signature"]) == [-1, 8, 8, 3]
    assert_round_trip(model, _run(path))


@pytest.mark.parametrize("name", export_cases.CASES)
def test_round_trips(tmp_path, name):
    model = build(export_cases.CASES, name)
    assert_round_trip(model, _run(export_litert(model, tmp_path / "m.tflite", verify=False)))


@pytest.mark.slow
@pytest.mark.parametrize("name", export_cases.LARGE_CASES)
def test_large_models(tmp_path, name):
    model = build(export_cases.LARGE_CASES, name)
    path = export_litert(model, tmp_path / "m.tflite")
    assert size(path) <= 1.05 * 4 * model.count_params()


@pytest.mark.parametrize(("quantize", "share"), [(None, 1), ("float16", 0.5), ("int8", 0.25)])
def test_weights_are_stored_once_and_quantized(tmp_path, quantize, share):
    model = export_cases.wide()
    path = export_litert(model, tmp_path / "m.tflite", quantize=quantize)
    # "int8" comes with a scale per channel.
    assert share <= size(path) / (4 * model.count_params()) <= 1.06 * share


@pytest.mark.parametrize("quantize", ["float16", "int8"])
def test_quantized_weights_differ_by_less_than_the_bar(tmp_path, quantize):
    model = build(export_cases.CASES, "vgg16")
    path = export_litert(model, tmp_path / "m.tflite", verify=False, quantize=quantize)
    assert_round_trip(model, _run(path), {"float16": 1e-2, "int8": 1e-1}[quantize])
    with pytest.raises(AssertionError):
        assert_round_trip(model, _run(path), 1e-5)


def test_other_operations_are_refused(tmp_path):
    with pytest.raises(ExportError, match="could not be converted to LiteRT; nothing was written"):
        export_litert(export_cases.recurrent(), tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == []
