import os

import keras
import onnx
import onnxruntime
import pytest
from helpers import export_cases
from helpers.export_cases import assert_round_trip, build, size

from keras_branch_prune.exporting import onnx_weights
from keras_branch_prune.exporting.onnx import export_onnx
from keras_branch_prune.exporting.verification import ExportError


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


@pytest.mark.parametrize(("quantize", "share"), [(None, 1), ("float16", 0.5), ("int8", 0.25)])
def test_weights_are_stored_once_and_quantized(tmp_path, quantize, share):
    model = export_cases.wide()
    path = export_onnx(model, tmp_path / "m.onnx", quantize=quantize)
    # "int8" comes with a scale per channel.
    assert share <= size(path) / (4 * model.count_params()) <= 1.06 * share


@pytest.mark.parametrize("name", ["vgg16", "generator"])
@pytest.mark.parametrize(("quantize", "bar"), [("float16", 1e-3), ("int8", 1e-2)])
def test_quantized_weights_differ_by_less_than_the_bar(tmp_path, name, quantize, bar):
    model = build(export_cases.CASES, name)
    path = export_onnx(model, tmp_path / "m.onnx", verify=False, quantize=quantize)
    assert_round_trip(model, _run(path), bar)
    with pytest.raises(AssertionError):
        assert_round_trip(model, _run(path), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["float16", "int8"])
@pytest.mark.parametrize("name", export_cases.LARGE_CASES)
def test_large_models_with_quantized_weights(tmp_path, name, quantize):
    model = build(export_cases.LARGE_CASES, name)
    path = export_onnx(model, tmp_path / "m.onnx", quantize=quantize)
    assert size(path) <= {"float16": 0.52, "int8": 0.28}[quantize] * 4 * model.count_params()


@pytest.mark.parametrize(
    "name", ["grouped convolution", "attention", "open sizes", "embedding", "recurrent", "float64"]
)
def test_other_weights_are_quantized(tmp_path, monkeypatch, name):
    monkeypatch.setattr(onnx_weights, "_LEAST_VALUES", 1)
    cases = {**export_cases.CASES, "embedding": _embedding, "float64": _float64}
    model = build({**cases, "recurrent": export_cases.recurrent}, name)
    path = export_onnx(model, tmp_path / "m.onnx", verify=False, quantize="int8")
    kinds = [tensor.data_type for tensor in onnx.load(path).graph.initializer]
    assert onnx.TensorProto.INT8 in kinds
    assert_round_trip(model, _run(path), 5e-2)


def _embedding():
    inputs = keras.Input((5,), dtype="int32", name="words")
    x = keras.layers.Embedding(20, 8)(inputs)
    return keras.Model(inputs, keras.layers.EinsumDense("abc,cd->abd", (5, 3))(x))


def _float64():
    inputs = keras.Input((4,), dtype="float64", name="features")
    return keras.Model(inputs, keras.layers.Dense(3, dtype="float64")(inputs))


@pytest.mark.parametrize("quantize", ["float16", "int8"])
def test_rounded_weights_cost_no_time(tmp_path, quantize):
    model = export_cases.wide()
    loaded = []
    for how in (None, quantize):
        path = export_onnx(model, tmp_path / "m.onnx", verify=False, quantize=how)
        loaded.append(_operations_when_loaded(path, tmp_path / "loaded.onnx"))
    assert loaded[0] == loaded[1] != []


def _operations_when_loaded(path, optimized):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    # Files written so are for this machine only, which is a warning.
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return sorted(node.op_type for node in onnx.load(optimized).graph.node)


def test_weights_too_large_for_float16_are_refused(tmp_path):
    model = export_cases.wide()
    model.set_weights([1e7 * weight for weight in model.get_weights()])
    with pytest.raises(ExportError, match="is too large for float16"):
        export_onnx(model, tmp_path / "m.onnx", quantize="float16")
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="`quantize` must be one of None, 'float16', 'int8'"):
        export_onnx(model, tmp_path / "m.onnx", quantize="int4")


def test_operations_that_onnx_lacks_are_refused(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.ops.erfinv(inputs))
    for verify in (True, False):
        with pytest.raises(ExportError, match=r"could not be converted to ONNX(.|\n)*Erfinv"):
            export_onnx(model, tmp_path / "m.onnx", verify=verify)
    assert os.listdir(tmp_path) == []
