import os

import export_cases
import keras
import onnx
import onnxruntime
import pytest
from export_cases import assert_round_trip, build, size

from keras_branch_prune.export import ExportError
from keras_branch_prune.export_onnx import export_onnx


def _run(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def test_verified_in_a_fresh_process(tmp_path):
    model, path = export_cases.cnn(), tmp_path / "new" / "model.onnx"
    assert export_onnx(model, str(path)) == path
    assert os.listdir(tmp_path / "new") == ["model.onnx"]
    (value,) = onnx.load(path).graph.input
    batch, *others = value.type.tensor_type.shape.dim
    assert (value.name, [dim.dim_value for dim in others]) == ("image", [8, 8, 3])
    assert batch.dim_param
    assert_round_trip(model, _run(path))


@pytest.mark.parametrize("name", [*export_cases.CASES, "recurrent"])
def test_round_trips(tmp_path, name):
    model = build({**export_cases.CASES, "recurrent": export_cases.recurrent}, name)
    assert_round_trip(model, _run(export_onnx(model, tmp_path / "m.onnx", verify=False)))


@pytest.mark.slow
@pytest.mark.parametrize("name", export_cases.LARGE_CASES)
def test_large_models(tmp_path, name):
    model = build(export_cases.LARGE_CASES, name)
    path = export_onnx(model, tmp_path / "m.onnx")
    assert size(path) <= 1.05 * 4 * model.count_params()


def test_weights_are_stored_once(tmp_path):
    model = export_cases.wide()
    path = export_onnx(model, tmp_path / "m.onnx")
    assert 1 <= size(path) / (4 * model.count_params()) <= 1.05


def test_operations_that_onnx_lacks_are_refused(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.ops.erfinv(inputs))
    for verify in (True, False):
        with pytest.raises(ExportError, match=r"could not be converted to ONNX(.|\n)*Erfinv"):
            export_onnx(model, tmp_path / "m.onnx", verify=verify)
    assert os.listdir(tmp_path) == []
