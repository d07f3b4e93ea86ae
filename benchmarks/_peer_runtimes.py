"""Times original and compact model side by side in the runtimes that a model can be exported to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
from _turns import medians

import keras_branch_prune as kbp

Run = Callable[[], object]


def onnx_runtime(model: keras.Model, folder: Path, images: np.ndarray, threads: int) -> Run:
    """Returns a call of ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    path = kbp.export_onnx(model, folder / "model.onnx", verify=False)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, feed)


def openvino(model: keras.Model, folder: Path, images: np.ndarray, threads: int) -> Run:
    """Returns a call of OpenVINO, in float32, with the batch size fixed when it loads the model."""
    import openvino

    path = kbp.export_openvino(model, folder / "openvino", verify=False)
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    options |= {"NUM_STREAMS": 1}
    core = openvino.Core()
    loaded = core.read_model(path / "model.xml")
    loaded.reshape(list(images.shape))
    request = core.compile_model(loaded, "CPU", options).create_infer_request()
    return lambda: request.infer([images])


def litert(model: keras.Model, folder: Path, images: np.ndarray, threads: int) -> Run:
    """Returns a call of LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    path = kbp.export_litert(model, folder / "model.tflite", verify=False)
    interpreter = Interpreter(str(path), num_threads=threads)
    source = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(source, images.shape)
    interpreter.allocate_tensors()
    target = interpreter.get_output_details()[0]["index"]

    def run() -> object:
        interpreter.set_tensor(source, images)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run


RUNTIMES = {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino, "LiteRT": litert}


def runtime_medians(
    runtime: str,
    models: Mapping[str, keras.Model],
    batch: int,
    threads: int,
    rounds: int,
    seconds: float,
) -> dict[str, float]:
    """Returns the median ms per call of every model in one runtime.

    Args:
        runtime: One of `RUNTIMES`.
        models: Models of one input, by name.
        batch: Images per call.
        threads: Number of threads.
        rounds: Turns that every model takes.
        seconds: Least time of one turn, s.
    """
    shape = next(iter(models.values())).input_shape[1:]
    images = np.random.default_rng(0).random((batch, *shape), "float32")
    with tempfile.TemporaryDirectory() as scratch:
        runs = {}
        for index, (name, model) in enumerate(models.items()):
            folder = Path(scratch, str(index))
            folder.mkdir()
            runs[name] = RUNTIMES[runtime](model, folder, images, threads)
        return medians(runs, rounds, seconds)
