"""LiteRT: `.tflite` files on the CPU."""

from typing import Any

from .base import Input, Options, Run, Runtime


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
