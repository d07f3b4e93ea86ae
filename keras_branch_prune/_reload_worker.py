"""The far end of `verify.py`, run as a script: runs an exported model on stored inputs.

Imports NumPy and the runtime of the format only. The arguments are the runtime, the path of the
model, the input file, the output file, and a JSON object with the names of inputs and outputs and
the number of cases. In the files input or output i of case k is the array `k_i`.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[dict[str, np.ndarray]], dict[str, Any]]


def _saved_model(path: str) -> Run:
    import tensorflow as tf

    # Without this reference the variables of the signature would be collected.
    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    specs = serve.structured_input_signature[1]

    def run(inputs: dict[str, np.ndarray], loaded: Any = loaded) -> dict[str, Any]:
        outputs = serve(**{n: tf.cast(tf.constant(x), specs[n].dtype) for n, x in inputs.items()})
        bfloat16 = {n: tf.cast(x, tf.float32) for n, x in outputs.items() if x.dtype == tf.bfloat16}
        return {name: x.numpy() for name, x in {**outputs, **bfloat16}.items()}

    return run


def _litert(path: str) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    serve = Interpreter(model_path=path).get_signature_runner("serving_default")
    return lambda inputs: serve(**inputs)


def _onnx(path: str) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _openvino(path: str) -> Run:
    import openvino

    # OpenVINO may compute in bfloat16 or float16 where the hardware can, unless told not to.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(f"{path}/model.xml", "CPU", options)
    names = [name for output in compiled.outputs for name in output.names]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        outputs = compiled(inputs)
        return {name: outputs[name] for name in names}

    return run


_RUNTIMES = {
    "saved_model": _saved_model,
    "litert": _litert,
    "onnx": _onnx,
    "openvino": _openvino,
}


def main(runtime: str, path: str, source: str, target: str, task: str) -> None:
    """Runs all cases and stores their outputs."""
    names = json.loads(task)
    run = _RUNTIMES[runtime](path)
    results: dict[str, Any] = {}
    with np.load(source) as arrays:
        for case in range(names["cases"]):
            outputs = run({n: arrays[f"{case}_{i}"] for i, n in enumerate(names["inputs"])})
            if set(outputs) != set(names["outputs"]):
                raise SystemExit(f"outputs {sorted(outputs)} instead of {sorted(names['outputs'])}")
            results.update({f"{case}_{i}": outputs[n] for i, n in enumerate(names["outputs"])})
    np.savez(target, **results)


if __name__ == "__main__":
    # The folder of this script holds the package's modules, which must not hide others.
    sys.path.pop(0)
    main(*sys.argv[1:])
