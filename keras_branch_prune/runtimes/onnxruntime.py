"""ONNX Runtime: `.onnx` files on the CPU."""

from typing import Any

from .base import Input, Options, Run, Runtime


class OnnxRuntime(Runtime):
    """An `.onnx` file on the CPU."""

    def __init__(self) -> None:
        import onnxruntime

        self._onnxruntime: Any = onnxruntime
        self.versions = {"ONNX Runtime": onnxruntime.__version__}

    def load(self, path: str, options: Options) -> None:
        """Opens a session."""
        session = self._onnxruntime.SessionOptions()
        if options.threads:
            session.intra_op_num_threads, session.inter_op_num_threads = options.threads, 1
        providers = ["CPUExecutionProvider"]
        self._session = self._onnxruntime.InferenceSession(path, session, providers=providers)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def inputs(self) -> dict[str, Input]:
        """Returns the inputs of the graph."""
        names = {"float": "float32", "double": "float64"}
        inputs = {}
        for value in self._session.get_inputs():
            dtype = value.type.removeprefix("tensor(").removesuffix(")")
            # Open dimensions are texts (their names) or None.
            shape = tuple(n if isinstance(n, int) else None for n in value.shape)
            inputs[value.name] = Input(shape, names.get(dtype, dtype))
        return inputs

    def prepare(self, arrays: dict[str, Any]) -> Run:
        """Binds the inputs; a session takes any shape."""
        run = self._session.run
        return lambda: dict(zip(self._outputs, run(self._outputs, arrays), strict=True))
