import ast
import sys
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
from helpers import export_cases
from keras import tree

import keras_branch_prune as kbp
from keras_branch_prune.runtimes import worker
from keras_branch_prune.runtimes.base import Input, Options, Runtime
from keras_branch_prune.runtimes.process import start_worker
from keras_branch_prune.runtimes.table import RUNTIMES

SCRIPTS = Path(worker.__file__).parent
RUNTIME_IMPORTS = {
    "TensorFlow": {"tensorflow"},
    "SavedModel": set(),
    "Keras": {"keras", '_import_package("keras_branch_prune", Path(__file__).parents[1])'},
    "MatMul": set(),
    "LiteRT": {"ai_edge_litert", "ai_edge_litert.interpreter"},
    "OnnxRuntime": {"onnxruntime"},
    "OpenVino": {"openvino"},
}


def _imports(node):
    """The modules other than the standard library's that a piece of code imports, as it says."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            found.update(name.name for name in part.names)
        elif isinstance(part, ast.ImportFrom):
            found.add(part.module)
        elif isinstance(part, ast.Call) and "import" in ast.unparse(part.func):
            found.add(ast.unparse(part).replace("'", '"').removeprefix("importlib."))
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


@pytest.mark.parametrize("name", ["litert", "onnxruntime", "openvino", "tensorflow"])
def test_a_runtime_imports_itself_only(name):
    body = ast.parse((SCRIPTS / f"{name}.py").read_text()).body
    for node in body:
        if isinstance(node, ast.ClassDef):
            assert _imports(node) == RUNTIME_IMPORTS[node.name]


@pytest.mark.parametrize(
    ("value", "shape", "message"),
    [
        (Input((3, 6), "float32"), None, "'x' has the fixed batch size 3"),
        (Input((None, 6), "string"), None, "'x' takes string, for which there are no"),
        (
            Input((None, None, 6), "float32"),
            None,
            "'x' has open dimensions.*pass `input_shape=`",
        ),
    ],
)
def test_inputs_that_cannot_be_made(value, shape, message):
    with pytest.raises(SystemExit, match=message):
        worker.random_array("x", value, 2, shape)


@pytest.mark.parametrize("shape", [(4, 6), {"x": (4, 6), "y": (1,)}])
@pytest.mark.parametrize("dtype", ["float16", "int64", "bool"])
def test_random_inputs(shape, dtype):
    value = Input((None, None, 6), dtype)
    array = worker.random_array("x", value, 2, shape)
    assert (array.shape, array.dtype) == ((2, 4, 6), dtype)
    assert len(set(np.ravel(array))) > 1


class Fake(Runtime):
    """A runtime that notes what it is asked for."""

    def __init__(self):
        self.versions, self.asked = {"Fake": "1"}, []

    def load(self, path, options):
        self.asked.append((path, *options))

    def inputs(self):
        return {"x": Input((None, 3), "float32")}

    def prepare(self, arrays):
        size = len(arrays["x"])
        self.asked.append(f"prepare {size}")
        return lambda: self.asked.append(size)


def test_no_more_than_one_batch_size_is_in_memory_when_it_is_measured(monkeypatch):
    monkeypatch.setitem(RUNTIMES, "fake", Fake)
    runner = worker.Runner("fake", "m", Options(4, reshape=True)._asdict(), None)
    assert runner.facts() == {"versions": {"Fake": "1"}, "gpu": None, "flop": None}
    asked = runner._runtime.asked
    assert asked == [("m", 4, "cpu", True)]
    for size in (1, 8):
        asked.clear()
        assert runner.warm_up(size, calls=2)["vram_mib"] is None
        assert asked == [f"prepare {size}", size, size]
        assert list(runner._runs) == [size]
    asked.clear()
    assert len(runner.time(1, seconds=0.0, calls=2)["ms"]) == 2
    # To warm up, because others had the caches, and to be measured.
    assert asked == ["prepare 1", 1, 1, 1, 1, 1]
    asked.clear()
    assert len(runner.time(8, seconds=0.0, calls=3)["ms"]) == 3
    assert asked == [8] * 4


EXPORTS = {
    "litert": (kbp.export_litert, "m.tflite"),
    "onnxruntime": (kbp.export_onnx, "m.onnx"),
    "openvino": (kbp.export_openvino, "m"),
}


def _loaded(backend, model, folder, options):
    export, name = EXPORTS[backend]
    runtime = RUNTIMES[backend]()
    runtime.load(str(export(model, folder / name, verify=False)), options)
    return runtime


@pytest.mark.parametrize("backend", EXPORTS)
@pytest.mark.parametrize("threads", [None, 2])
def test_inputs_and_outputs(tmp_path, backend, threads):
    model = export_cases.two_by_two()
    runtime = _loaded(backend, model, tmp_path, Options(threads, reshape=True))
    image = Input((None, 8, 8, 3), "float32")
    assert runtime.inputs() == {"left": image, "right": image}
    assert runtime.versions.keys() <= {"LiteRT", "ONNX Runtime", "OpenVINO"}
    rng = np.random.default_rng(0)
    for batch in (3, 1):
        arrays = {
            name: rng.random((batch, 8, 8, 3)).astype("float32") for name in ("left", "right")
        }
        run = runtime.prepare(arrays)
        expected = {name: np.asarray(x) for name, x in model(arrays).items()}
        for outputs in (run(), run()):
            assert set(outputs) == set(expected)
            for name, array in expected.items():
                np.testing.assert_allclose(outputs[name], array, atol=1e-5)
    assert runtime.inputs() == {"left": image, "right": image}
    assert (runtime.gpu, runtime.flop, runtime.vram_mib()) == (None, None, None)


def test_options_reach_openvino(tmp_path, monkeypatch):
    runtime = _loaded("openvino", export_cases.cnn(), tmp_path, Options(2, reshape=True))
    compiled = []
    compile_model = runtime._core.compile_model

    class Core:
        def compile_model(self, *args):
            compiled.append(compile_model(*args))
            return compiled[-1]

    monkeypatch.setattr(runtime, "_core", Core())
    runtime.prepare({"image": np.zeros((5, 8, 8, 3), "float32")})
    assert compiled[0].get_property("INFERENCE_NUM_THREADS") == 2
    assert compiled[0].get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert compiled[0].get_property("PERFORMANCE_HINT") == "LATENCY"
    assert list(compiled[0].input(0).shape) == [5, 8, 8, 3]


def test_options_reach_onnx_runtime(tmp_path):
    runtime = _loaded("onnxruntime", export_cases.cnn(), tmp_path, Options(2))
    options = runtime._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    runtime = _loaded("onnxruntime", export_cases.cnn(), tmp_path, Options())
    default = onnxruntime.SessionOptions()
    options = runtime._session.get_session_options()
    assert options.intra_op_num_threads == default.intra_op_num_threads


def test_options_reach_litert(tmp_path, monkeypatch):
    made = []
    runtime = RUNTIMES["litert"]()
    interpreter = runtime._interpreter

    def make(**options):
        made.append(options)
        return interpreter(**options)

    monkeypatch.setattr(runtime, "_interpreter", make)
    path = kbp.export_litert(export_cases.cnn(), tmp_path / "m.tflite", verify=False)
    runtime.load(str(path), Options(2))
    runtime.prepare({"image": np.zeros((5, 8, 8, 3), "float32")})()
    assert made == [{"model_path": str(path), "num_threads": 2}] * 2


def test_a_branched_model_is_run_by_keras(tmp_path):
    model = export_cases.cnn()
    branched = kbp.branch(model, kbp.plan(model, width=0.5))
    branched.save(tmp_path / "m.keras")
    with start_worker("It", "keras", tmp_path / "m.keras", 120.0, Options(1)) as process:
        assert set(process.ask("facts")["versions"]) == {"Keras", "TensorFlow"}
        assert process.ask("warm_up", batch_size=2, calls=1)["ram_mib"] > 0
        assert len(process.ask("time", batch_size=3, seconds=1e-6, calls=2)["ms"]) >= 2


def test_structured_inputs_of_keras(tmp_path):
    model = export_cases.two_by_two()
    model.save(tmp_path / "m.keras")
    runtime = RUNTIMES["keras"]()
    runtime._model = keras.models.load_model(tmp_path / "m.keras")
    arrays = {
        name: worker.random_array(name, value, 2, None) for name, value in runtime.inputs().items()
    }
    assert list(arrays) == ["left", "right"]
    # Not alike, so that an exchange is seen.
    arrays["right"] = 1 - arrays["right"]
    expected = tree.flatten(model(tree.pack_sequence_as(model.input, list(arrays.values()))))
    outputs = runtime.prepare(arrays)()
    for output, array in zip(outputs.values(), expected, strict=True):
        np.testing.assert_allclose(output, array, atol=1e-5)
