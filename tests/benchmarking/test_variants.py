import importlib.util
import os

import keras
import pytest
import tensorflow as tf
from helpers import export_cases
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.benchmarking.measurement import benchmark
from keras_branch_prune.benchmarking.variants import export_models
from keras_branch_prune.exporting import FORMATS, serving


def _dense(units):
    inputs = keras.Input((6,), name="features")
    return keras.Model(inputs, layers.Dense(units, name="scores")(inputs))


def test_every_model_is_exported_once_per_backend(tmp_path):
    (tmp_path / "scratch").mkdir()
    path = tmp_path / "model.keras"
    _dense(4).save(path)
    models = {"model": _dense(2), "path": str(path)}
    variants = export_models(models, list(FORMATS), tmp_path / "scratch", None)
    assert list(variants) == ["model", "path"]
    for variant, units in zip(variants.values(), (2, 4), strict=True):
        assert variant.costs.macs == 6 * units
        assert list(variant.paths) == list(FORMATS)
        assert all(variant.size_mib(backend) > 0 for backend in FORMATS)
    assert variants["path"].paths["keras"] == path
    exported = ["saved_model", "litert.tflite", "onnxruntime.onnx", "openvino"]
    names = [f"{index}-{name}" for index in (0, 1) for name in exported]
    assert sorted(os.listdir(tmp_path / "scratch")) == sorted([*names, "0-keras.keras"])


def test_all_saved_models_are_frozen_or_none(monkeypatch, tmp_path):
    small, large = _dense(2), _dense(400)
    monkeypatch.setattr(serving, "_MAX_FROZEN_BYTES", 4 * small.count_params())
    for models, frozen in (({"a": small}, True), ({"a": small, "b": large}, False)):
        variants = export_models(models, ["saved_model"], tmp_path / str(frozen), None)
        stored = tf.train.list_variables(
            str(variants["a"].paths["saved_model"] / "variables" / "variables")
        )
        assert (len(stored) == 1) is frozen  # the graph of objects is always there


EXPORTS = {
    "saved_model": lambda model, folder: kbp.export_saved_model(model, folder, verify=False),
    "litert": lambda model, folder: kbp.export_litert(model, f"{folder}.tflite", verify=False),
    "onnxruntime": lambda model, folder: kbp.export_onnx(model, f"{folder}.onnx", verify=False),
    "openvino": lambda model, folder: kbp.export_openvino(model, folder, verify=False),
}


@pytest.mark.parametrize("backend", EXPORTS)
def test_what_is_exported_already_is_for_one_backend(tmp_path, backend):
    path = EXPORTS[backend](_dense(2), tmp_path / "m")
    (variant,) = export_models({"m": str(path)}, list(FORMATS), tmp_path, None).values()
    assert (variant.costs, variant.paths) == (None, {backend: path})
    message = rf"'m' can only be run by '{backend}', .* Received: '.*m.*', backends=\('keras',\)"
    with pytest.raises(ValueError, match=message):
        export_models({"m": path}, ["keras"], tmp_path, None)


@pytest.mark.parametrize(
    ("backend", "package", "extra"),
    [
        ("litert", "ai_edge_litert", "litert"),
        ("onnxruntime", "tf2onnx", "onnx"),
        ("onnxruntime", "onnxruntime", "onnx"),
        ("openvino", "openvino", "openvino"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, backend, package, extra):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == package else find(n))
    message = (
        rf"^The backend '{backend}' needs the missing {package}: "
        rf"pip install keras_branch_prune\[{extra}\]$"
    )
    with pytest.raises(ImportError, match=message):
        benchmark({"a": _dense(2)}, [1], backends=["keras", backend])


def test_what_only_writes_a_format_is_not_needed_to_run_it(tmp_path, monkeypatch):
    path = kbp.export_onnx(export_cases.cnn(), tmp_path / "m.onnx", verify=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "tf2onnx" else find(n))
    variants = export_models({"m": path}, ["onnxruntime"], tmp_path, None)
    assert variants["m"].paths == {"onnxruntime": path}
