import os

import openvino
import pytest
from helpers import export_cases
from helpers.export_cases import assert_round_trip, build, size

from keras_branch_prune.exporting.openvino import export_openvino
from keras_branch_prune.exporting.verification import ExportError

# OpenVINO takes seconds to read a model; LiteRT and ONNX round trips of all cases are quick.
QUICK = ("cnn", "grouped convolution")


def _run(path):
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(path / "model.xml", "CPU", options)
    names = [name for output in compiled.outputs for name in output.names]

    def run(inputs):
        outputs = compiled(inputs)
        return {name: outputs[name] for name in names}

    return run


def test_verified_in_a_fresh_process(tmp_path):
    model, path = export_cases.cnn(), tmp_path / "new" / "model"
    assert export_openvino(model, str(path)) == path
    assert os.listdir(tmp_path / "new") == ["model"]
    assert sorted(os.listdir(path)) == ["model.bin", "model.xml"]
    (value,) = openvino.Core().read_model(path / "model.xml").inputs
    assert (value.names, str(value.partial_shape)) == ({"image"}, "[?,8,8,3]")
    assert_round_trip(model, _run(path))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in export_cases.CASES
    ],
)
def test_round_trips(tmp_path, name):
    model = build(export_cases.CASES, name)
    assert_round_trip(model, _run(export_openvino(model, tmp_path / "m", verify=False)))


@pytest.mark.slow
@pytest.mark.parametrize("name", export_cases.LARGE_CASES)
def test_large_models(tmp_path, name):
    model = build(export_cases.LARGE_CASES, name)
    path = export_openvino(model, tmp_path / "m")
    assert size(path) <= 1.05 * 4 * model.count_params()


@pytest.mark.parametrize(("quantize", "share"), [(None, 1), ("float16", 0.5)])
def test_weights_are_stored_once_and_quantized(tmp_path, quantize, share):
    model = export_cases.wide()
    path = export_openvino(model, tmp_path / "m", verify=False, quantize=quantize)
    assert share <= size(path) / (4 * model.count_params()) <= 1.05 * share


def test_quantized_weights_differ_by_less_than_the_bar(tmp_path):
    model = build(export_cases.CASES, "vgg16")
    path = export_openvino(model, tmp_path / "m", verify=False, quantize="float16")
    assert_round_trip(model, _run(path), 1e-2)
    with pytest.raises(AssertionError):
        assert_round_trip(model, _run(path), 1e-5)


def test_an_input_as_output_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"nothing was written(.|\n)*outputs .* instead of"):
        export_openvino(export_cases.input_as_output(), tmp_path / "m")
    assert os.listdir(tmp_path) == []


def test_an_older_export_is_replaced_and_nothing_else(tmp_path):
    model = export_cases.cnn()
    path = export_openvino(model, tmp_path / "m", verify=False)
    before = (path / "model.bin").read_bytes()
    export_openvino(export_cases.wide(), path, verify=False)
    assert (path / "model.bin").read_bytes() != before
    with pytest.raises(FileExistsError, match="must be new, empty or an OpenVINO model"):
        export_openvino(model, tmp_path)
