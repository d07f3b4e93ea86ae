import json

import keras
import pytest
from helpers import export_cases
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.benchmarking.measurement import benchmark
from keras_branch_prune.benchmarking.result import BenchmarkResult
from keras_branch_prune.benchmarking.rounds import BenchmarkError
from keras_branch_prune.exporting import FORMATS, export_saved_model


def _dense(units=4, shape=(6,), **kwargs):
    inputs = keras.Input(shape, name="features", **kwargs)
    return keras.Model(inputs, layers.Dense(units, name="scores")(inputs))


FAST = {"rounds": 2, "seconds": 1e-6, "devices": ["cpu"], "peak": False}


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
        assert 0 < variant.file_sizes_mib["saved_model"] < 0.1
        assert [timing.batch_size for timing in variant.timings] == [1, 2]
        for timing in variant.timings:
            assert 0 < timing.p50_ms <= timing.p95_ms
            assert len(timing.rounds_ms) == 2
            assert timing.ram_mib > 0
            assert timing.vram_mib is None
        assert variant.timings[0].ram_mib <= variant.timings[1].ram_mib


def test_environment_says_what_matters(measured):
    assert set(measured.environment) == {"TensorFlow", "CPU", "GPU", "threads", "rounds"}
    assert measured.peaks == ()
    assert (measured.environment["threads"], measured.environment["rounds"]) == ("1", 2)


THREADS = (2, 1)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A model by every backend, and the same as a file that one of them runs."""
    model = export_cases.cnn()
    path = kbp.export_litert(model, tmp_path_factory.mktemp("m") / "m.tflite", verify=False)
    options = {**FAST, "peak": True, "rounds": 3}
    return benchmark(
        {"model": model, "file": path}, [1, 2], backends=list(FORMATS), threads=THREADS, **options
    )


@pytest.mark.slow
def test_every_backend_is_measured_with_all_threads(everything):
    model, file = everything.variants
    keys = [(x.backend, x.threads, x.batch_size) for x in model.timings]
    assert keys == [(x, n, size) for x in FORMATS for n in THREADS for size in (1, 2)]
    assert [key for key in keys if key[0] == "litert"] == [
        (x.backend, x.threads, x.batch_size) for x in file.timings
    ]
    assert list(model.file_sizes_mib) == list(FORMATS)
    assert file.file_sizes_mib == {"litert": model.file_sizes_mib["litert"]}
    for timing in (*model.timings, *file.timings):
        assert 0 < timing.p50_ms <= timing.p95_ms
        assert len(timing.rounds_ms) == 3
        assert timing.ram_mib > 0


@pytest.mark.slow
def test_versions_of_all_runtimes(everything):
    titles = {"Keras", "TensorFlow", "LiteRT", "ONNX Runtime", "OpenVINO"}
    assert titles < set(everything.environment)
    assert everything.environment["threads"] == "2 and 1"


@pytest.mark.slow
def test_peaks(everything):
    assert [(peak.device, peak.threads) for peak in everything.peaks] == [("cpu", 2), ("cpu", 1)]
    assert all(peak.gflops > 1 for peak in everything.peaks)
    for backend in FORMATS:
        assert 0 < everything.utilisation(2, "model", backend=backend, threads=1) < 1
    assert everything.utilisation(2, "file") is None


@pytest.mark.slow
def test_a_file_is_compared_by_its_backend(everything):
    assert everything.speedup(1) == everything.speedup(1, backend="litert", threads=2)
    low, high = everything.speedup_interval(1, threads=1)
    assert (low, high) == everything.speedup_range(1, threads=1)
    assert low <= everything.speedup(1, threads=1) <= high
    with pytest.raises(KeyError, match="'file' was measured at"):
        everything.speedup(1, backend="keras")


@pytest.mark.slow
def test_table_of_all(everything):
    table = str(everything)
    assert "time/image at batch 2, openvino, 1 thread, CPU, ms (p95)" in table
    assert "share of the matmul peak at batch 1, keras, 2 threads, CPU, %" in table
    assert "Matmul peak, CPU, 1 thread: " in table


@pytest.mark.slow
def test_json_round_trip(everything):
    assert BenchmarkResult.from_json(json.loads(json.dumps(everything.to_json()))) == everything


def test_a_model_that_cannot_be_loaded_shows_its_error(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"nonsense")
    message = (
        r"measures 'broken' by saved_model on the CPU ended early. Its error output:\n(.|\n)*Error"
    )
    with pytest.raises(BenchmarkError, match=message):
        benchmark({"broken": tmp_path}, [1], **FAST)


AT_LEAST_1 = "an integer of at least 1. Received:"
WRONG = {
    "no models": ({"models": {}}, ValueError, "`models` must be a dict .* not empty"),
    "a list": ({"models": [1]}, ValueError, r"`models` must be a dict .* Received: models=\[1\]"),
    "not a model": ({"models": {"a": 3}}, TypeError, "must be a keras.Model. Received: int"),
    "no such path": (
        {"models": {"a": "nowhere"}},
        FileNotFoundError,
        r"one of: a `\.keras` file, a SavedModel, .*, an OpenVINO model. Received: 'nowhere'",
    ),
    "unbuilt": ({"models": {"a": keras.Sequential([layers.Dense(1)])}}, ValueError, "be built"),
    "batch size 0": (
        {"batch_sizes": [1, 0]},
        ValueError,
        r"`batch_sizes\[1\]` must be an integer of at least 1",
    ),
    "batch size True": ({"batch_sizes": [True]}, ValueError, r"Received: batch_sizes\[0\]=True"),
    "no batch size": ({"batch_sizes": []}, ValueError, "`batch_sizes` must be a sequence"),
    "one batch size": ({"batch_sizes": 64}, ValueError, "`batch_sizes` must be a sequence"),
    "rounds": (
        {"rounds": 0},
        ValueError,
        f"`rounds` must be {AT_LEAST_1} rounds=0",
    ),
    "threads": (
        {"threads": 0},
        ValueError,
        f"`threads` must be {AT_LEAST_1} threads=0",
    ),
    "some threads": (
        {"threads": [1, True]},
        ValueError,
        r"`threads\[1\]` must be an integer",
    ),
    "no threads": ({"threads": []}, ValueError, r"`threads` must not be empty. Received: \[\]"),
    "threads by name": (
        {"threads": "1"},
        ValueError,
        f"`threads` must be {AT_LEAST_1} threads='1'",
    ),
    "one backend": ({"backends": "litert"}, ValueError, "`backends` must be a seq.* 'litert'"),
    "no backend": ({"backends": []}, ValueError, r"`backends` must be a sequence .* backends=\[\]"),
    "backend": ({"backends": ["onnx"]}, ValueError, r"some of \('keras', .*: backends=\['onnx'\]"),
    "no GPU": (
        {"backends": ["litert", "openvino"], "devices": ["gpu"]},
        ValueError,
        r"'a' cannot be measured: its backends \('litert', 'openvino'\) run on the CPU only",
    ),
    "seconds": (
        {"seconds": 0},
        ValueError,
        "`seconds` must be a positive number. Received: seconds=0",
    ),
    "seconds True": ({"seconds": True}, ValueError, "Received: seconds=True"),
    "device": ({"devices": ["tpu"]}, ValueError, r"`devices` must be some of .*'tpu'"),
    "open": ({"models": {"a": _dense(1, (None, 6))}}, ValueError, "pass `input_shape="),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    arguments, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        benchmark(**{"models": {"a": _dense()}, **FAST, **arguments})
