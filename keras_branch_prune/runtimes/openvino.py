"""OpenVINO: folders with a `model.xml`, on the CPU."""

from typing import Any

from .base import Input, Options, Run, Runtime


class OpenVino(Runtime):
    """A folder with `model.xml`, on the CPU."""

    def __init__(self) -> None:
        import openvino

        self._openvino: Any = openvino
        self.versions = {"OpenVINO": openvino.__version__.split("-")[0]}

    def load(self, path: str, options: Options) -> None:
        """Reads the folder; `prepare` compiles the model."""
        # OpenVINO may compute in bfloat16 or float16 where the hardware can, unless told not to.
        self._options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if options.threads:
            self._options["INFERENCE_NUM_THREADS"] = str(options.threads)
        self._reshape = options.reshape
        self._core = self._openvino.Core()
        self._model = self._core.read_model(f"{path}/model.xml")

    def inputs(self) -> dict[str, Input]:
        """Returns the inputs of the graph."""
        return {
            value.any_name: Input(
                tuple(n.get_length() if n.is_static else None for n in value.partial_shape),
                value.element_type.to_dtype().name,
            )
            for value in self._model.inputs
        }

    def prepare(self, arrays: dict[str, Any]) -> Run:
        """Compiles the model, for the shapes of the inputs if so asked."""
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
