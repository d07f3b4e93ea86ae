"""All runtimes by name, as the worker scripts use them; each is imported only when it is made."""

from collections.abc import Callable
from typing import Any

from .base import Input, Options, Run, Runtime
from .tensorflow import Keras, MatMul, SavedModel


class LiteRT(Runtime):
    """A `.tflite` file."""

    def __init__(self) -> None:
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter: Any = Interpreter
        self.versions = {"LiteRT": ai_edge_litert.__version__}

    def load(self, path: str, options: Options) -> None:
        """See `Runtime`."""
        self._make = lambda: self._interpreter(model_path=path, num_threads=options.threads)
        first = self._make()
        if first.get_signature_list():
            signature = first.get_signature_runner()
            self._inputs = signature.get_input_details()
            self._outputs = signature.get_output_details()
        else:
            self._inputs = {x["name"]: x for x in first.get_input_details()}
            self._outputs = {x["name"]: x for x in first.get_output_details()}

    def inputs(self) -> dict[str, Input]:
        """See `Runtime`."""
        # Open dimensions are -1 there; a model without any may have an empty signature.
        shapes = {
            name: [None if n < 0 else int(n) for n in _first_filled(x["shape_signature"], x)]
            for name, x in self._inputs.items()
        }
        return {
            name: Input(tuple(shapes[name]), x["dtype"].__name__.removesuffix("_"))
            for name, x in self._inputs.items()
        }

    def prepare(self, arrays: dict[str, Any]) -> Run:
        """See `Runtime`; each has an interpreter of its own, since resizing prepares it anew."""
        interpreter = self._make()
        for name, array in arrays.items():
            interpreter.resize_tensor_input(self._inputs[name]["index"], array.shape)
        interpreter.allocate_tensors()

        def run() -> dict[str, Any]:
            for name, array in arrays.items():
                interpreter.set_tensor(self._inputs[name]["index"], array)
            interpreter.invoke()
            return {name: interpreter.get_tensor(x["index"]) for name, x in self._outputs.items()}

        return run


def _first_filled(shape: Any, details: dict[str, Any]) -> Any:
    return shape if len(shape) else details["shape"]


class OnnxRuntime(Runtime):
    """An `.onnx` file on the CPU."""

    def __init__(self) -> None:
        import onnxruntime

        self._onnxruntime: Any = onnxruntime
        self.versions = {"ONNX Runtime": onnxruntime.__version__}

    def load(self, path: str, options: Options) -> None:
        """See `Runtime`."""
        session = self._onnxruntime.SessionOptions()
        if options.threads:
            session.intra_op_num_threads, session.inter_op_num_threads = options.threads, 1
        providers = ["CPUExecutionProvider"]
        self._session = self._onnxruntime.InferenceSession(path, session, providers=providers)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def inputs(self) -> dict[str, Input]:
        """See `Runtime`."""
        names = {"float": "float32", "double": "float64"}
        inputs = {}
        for value in self._session.get_inputs():
            dtype = value.type.removeprefix("tensor(").removesuffix(")")
            shape = tuple(n if isinstance(n, int) else None for n in value.shape)
            inputs[value.name] = Input(shape, names.get(dtype, dtype))
        return inputs

    def prepare(self, arrays: dict[str, Any]) -> Run:
        """See `Runtime`."""
        run = self._session.run
        return lambda: dict(zip(self._outputs, run(self._outputs, arrays), strict=True))


class OpenVino(Runtime):
    """A folder with `model.xml`, on the CPU."""

    def __init__(self) -> None:
        import openvino

        self._openvino: Any = openvino
        self.versions = {"OpenVINO": openvino.__version__.split("-")[0]}

    def load(self, path: str, options: Options) -> None:
        """See `Runtime`."""
        # OpenVINO may compute in bfloat16 or float16 where the hardware can, unless told not to.
        self._options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if options.threads:
            self._options["INFERENCE_NUM_THREADS"] = str(options.threads)
        self._reshape = options.reshape
        self._core = self._openvino.Core()
        self._model = self._core.read_model(f"{path}/model.xml")

    def inputs(self) -> dict[str, Input]:
        """See `Runtime`."""
        return {
            value.any_name: Input(
                tuple(n.get_length() if n.is_static else None for n in value.partial_shape),
                value.element_type.to_dtype().name,
            )
            for value in self._model.inputs
        }

    def prepare(self, arrays: dict[str, Any]) -> Run:
        """See `Runtime`."""
        model = self._model
        if self._reshape:
            model = model.clone()
            model.reshape({name: list(array.shape) for name, array in arrays.items()})
        compiled = self._core.compile_model(model, "CPU", self._options)
        names = [name for output in compiled.outputs for name in output.names]

        def run() -> dict[str, Any]:
            outputs = compiled(arrays)
            return {name: outputs[name] for name in names}

        return run


RUNTIMES: dict[str, Callable[[], Runtime]] = {
    "keras": Keras,
    "saved_model": SavedModel,
    "litert": LiteRT,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "matmul": MatMul,
}
