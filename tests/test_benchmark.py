import ast
import dataclasses
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_branch_prune import _benchmark_worker, export, worker
from keras_branch_prune._runtime import Input
from keras_branch_prune.benchmark import BenchmarkError, benchmark
from keras_branch_prune.benchmark_result import (
    BenchmarkResult,
    Timing,
    VariantResult,
    make_timing,
)
from keras_branch_prune.export import export_saved_model
from keras_branch_prune.worker import start_worker


def _dense(units=4, shape=(6,), **kwargs):
    inputs = keras.Input(shape, name="features", **kwargs)
    return keras.Model(inputs, layers.Dense(units, name="scores")(inputs))


FAST = {"rounds": 2, "seconds": 1e-6, "devices": ["cpu"]}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A `.keras` file and a SavedModel, both with an open dimension."""
    folder = tmp_path_factory.mktemp("models")
    _dense(4, (None, 6)).save(folder / "original.keras")
    saved = export_saved_model(_dense(2, (None, 6)), folder / "saved", verify=False)
    models = {"original": folder / "original.keras", "saved": saved}
    return benchmark(models, [2, 1, 2], threads=1, input_shape=(3, 6), **FAST)


def test_numbers_of_every_variant(measured):
    original, saved = measured.variants
    assert (original.name, original.parameters, original.macs) == ("original", 28, 72)
    assert (saved.name, saved.parameters, saved.macs) == ("saved", None, None)
    for variant in measured.variants:
        assert 0 < variant.file_size_mib < 0.1
        assert [timing.batch_size for timing in variant.timings] == [1, 2]
        for timing in variant.timings:
            assert 0 < timing.p50_ms <= timing.p95_ms
            assert len(timing.rounds_ms) == 2
            assert timing.ram_mib > 0
            assert timing.vram_mib is None
        assert variant.timings[0].ram_mib <= variant.timings[1].ram_mib


def test_all_models_are_exported_alike(monkeypatch, tmp_path):
    small, large = _dense(2), _dense(400)
    limit = 4 * small.count_params()
    monkeypatch.setattr(export, "_MAX_FROZEN_BYTES", limit)
    for models, frozen in (({"a": small}, True), ({"a": small, "b": large}, False)):
        prepared = sys.modules[benchmark.__module__]._prepared(models, tmp_path / str(frozen), None)
        path, costs = prepared["a"]
        assert list(prepared) == list(models)
        assert costs.parameters == small.count_params()
        stored = tf.train.list_variables(str(path / "variables" / "variables"))
        assert (len(stored) == 1) is frozen  # the graph of objects is always there


def test_environment_says_what_matters(measured):
    assert set(measured.environment) == {"TensorFlow", "CPU", "GPU", "threads", "rounds"}
    assert (measured.environment["threads"], measured.environment["rounds"]) == (1, 2)


def test_json_round_trip(measured):
    assert BenchmarkResult.from_json(json.loads(json.dumps(measured.to_json()))) == measured


SCRIPTS = Path(_benchmark_worker.__file__).parent
RUNTIME_IMPORTS = {
    "TensorFlow": {"tensorflow"},
    "SavedModel": set(),
    "Keras": {"keras", 'import_module("keras_branch_prune")'},
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


@pytest.mark.parametrize("name", ["_runtimes", "_tensorflow_runtimes"])
def test_a_runtime_imports_itself_only(name):
    body = ast.parse((SCRIPTS / f"{name}.py").read_text()).body
    for node in body:
        if isinstance(node, ast.ClassDef):
            assert _imports(node) == RUNTIME_IMPORTS[node.name]


@pytest.mark.parametrize("name", ["_benchmark_worker", "_reload_worker", "_runtime", "_runtimes"])
def test_the_scripts_import_numpy_and_each_other_only(name):
    nodes = ast.parse((SCRIPTS / f"{name}.py").read_text()).body
    outside = [node for node in nodes if not isinstance(node, ast.ClassDef)]
    found = set().union(*map(_imports, outside)) - {"numpy"}
    assert {x.removeprefix("keras_branch_prune.") for x in found} <= {
        "_runtime",
        "_runtimes",
        "_tensorflow_runtimes",
    }


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
        _benchmark_worker.random_array("x", value, 2, shape)


@pytest.mark.parametrize("shape", [(4, 6), {"x": (4, 6), "y": (1,)}])
@pytest.mark.parametrize("dtype", ["float16", "int64", "bool"])
def test_random_inputs(shape, dtype):
    value = Input((None, None, 6), dtype)
    array = _benchmark_worker.random_array("x", value, 2, shape)
    assert (array.shape, array.dtype) == ((2, 4, 6), dtype)
    assert len(set(np.ravel(array))) > 1


def test_a_model_that_cannot_be_loaded_shows_its_error(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"nonsense")
    message = r"measures 'broken' on the CPU ended early. Its error output:\n(.|\n)*Error"
    with pytest.raises(BenchmarkError, match=message):
        benchmark({"broken": tmp_path}, [1], **FAST)


def _options(path):
    return {"path": str(path), "device": "cpu", "threads": None, "input_shape": None}


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Replaces the far end of the protocol by a few lines that need no TensorFlow."""

    def replace(code):
        path = tmp_path / "worker.py"
        path.write_text(code)
        monkeypatch.setattr(worker, "_SCRIPT", path)

    return replace


def test_a_process_that_does_not_answer(script):
    script("import sys, time\nprint('I am stuck', file=sys.stderr, flush=True)\ntime.sleep(60)")
    message = r"'slow' gave no answer in 1.0 s(.|\n)*stuck"
    with (
        start_worker("'slow'", _options(""), timeout=1.0) as process,
        pytest.raises(BenchmarkError, match=message),
    ):
        process.ready()
    assert process._process.returncode != 0


def test_a_process_that_ends_between_questions(script):
    script("print('{}', flush=True)")
    with start_worker("'short'", _options(""), timeout=30.0) as process:
        assert process.ready() == {}
        process._process.wait()
        with pytest.raises(BenchmarkError, match="'short' ended early"):
            process.ask(command="time")


WRONG = {
    "no models": ({"models": {}}, ValueError, "`models` must be a dict .* not empty"),
    "a list": ({"models": [1]}, ValueError, r"`models` must be a dict .* Received: \[1\]"),
    "not a model": ({"models": {"a": 3}}, TypeError, "must be a keras.Model. Received: int"),
    "no such path": ({"models": {"a": "nowhere"}}, FileNotFoundError, "SavedModel or a `.keras`"),
    "unbuilt": ({"models": {"a": keras.Sequential([layers.Dense(1)])}}, ValueError, "be built"),
    "batch size 0": ({"batch_sizes": [1, 0]}, ValueError, r"`batch_sizes\[1\]` must be a positive"),
    "batch size True": ({"batch_sizes": [True]}, ValueError, "Received: True"),
    "no batch size": ({"batch_sizes": []}, ValueError, "`batch_sizes` must be a sequence"),
    "one batch size": ({"batch_sizes": 64}, ValueError, "`batch_sizes` must be a sequence"),
    "rounds": ({"rounds": 0}, ValueError, "`rounds` must be a positive integer. Received: 0"),
    "threads": ({"threads": 0}, ValueError, "`threads` must be a positive integer. Received: 0"),
    "seconds": ({"seconds": 0}, ValueError, "`seconds` must be positive. Received: 0"),
    "device": ({"devices": ["tpu"]}, ValueError, r"`devices` must be some of .*'tpu'"),
    "open": ({"models": {"a": _dense(1, (None, 6))}}, ValueError, "pass `input_shape="),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    arguments, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        benchmark(**{"models": {"a": _dense()}, **FAST, **arguments})


def test_make_timing_pools_rounds_and_divides_by_the_batch():
    timing = make_timing("cpu", 2, [[2.0, 4.0, 6.0], [8.0]], {"ram_mib": 5.0, "vram_mib": None})
    assert timing == Timing("cpu", 2, 2.5, 4.0, (2.0, 4.0), 5.0, None)


def _result(*milliseconds):
    timings = [Timing("cpu", 1, ms, ms * 2, (ms, ms * 1.25), ms * 10) for ms in milliseconds]
    return BenchmarkResult(
        tuple(
            VariantResult(f"v{index}", 1000 // (index + 1), None, (), 8.0 / (index + 1), (timing,))
            for index, timing in enumerate(timings)
        ),
        {"TensorFlow": "2.21.0", "GPU": None, "threads": 1},
    )


def test_table():
    assert str(_result(3.0, 1.5)) == (
        "                                      v0             v1             ratio\n"
        "------------------------------------  -------------  -------------  -----------------\n"
        "parameters                            1,000          500            2.00×\n"
        "file size, MiB                        8.00           4.00           2.00×\n"
        "time/image at batch 1, CPU, ms (p95)  3.000 (6.000)  1.500 (3.000)  2.00× (2.00–2.00)\n"
        "RAM at batch 1, MiB                   30.0           15.0           2.00×\n"
        "\n"
        "Measured with TensorFlow 2.21.0, threads 1."
    )


def test_table_names_what_is_not_counted_and_shows_a_gpu():
    variant = _result(3.0).variants[0]
    gpu = dataclasses.replace(variant.timings[0], device="gpu", vram_mib=77.0)
    variant = dataclasses.replace(variant, uncounted=("lstm",), timings=(variant.timings[0], gpu))
    table = str(BenchmarkResult((variant,), {"GPU": "H100"}))
    assert "time/image at batch 1, GPU, ms (p95)" in table
    assert "VRAM at batch 1, MiB                  77.0" in table
    assert "Measured with GPU H100." in table
    assert "Not in the MACs of 'v0': lstm." in table


def test_speedup():
    result = _result(3.0, 1.5)
    assert result.speedup(1) == 2.0
    assert result.speedup(1, "v0") == 1.0
    assert result.speedup_range(1) == (2.0, 2.0)
    three = _result(3.0, 1.5, 1.0)
    assert three.speedup(1, variant="v2") == 3.0
    with pytest.raises(KeyError, match=r"`variant` must be one of .* Received: None"):
        three.speedup(1)
    with pytest.raises(
        KeyError, match=r"was measured at .*\[\(1, 'cpu'\)\]. Received: \(7, 'cpu'\)"
    ):
        result.speedup(7)


def test_speedup_range_is_that_of_the_rounds():
    slow, fast = _result(3.0, 1.5).variants
    timing = dataclasses.replace(fast.timings[0], rounds_ms=(1.0, 3.0))
    fast = dataclasses.replace(fast, timings=(timing,))
    assert BenchmarkResult((slow, fast), {}).speedup_range(1) == (1.25, 3.0)
