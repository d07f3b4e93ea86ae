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
        """Opens the file."""
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
        """Returns the inputs of the signature, or of the graph if there is none."""
        inputs = {}
        for name, x in self._inputs.items():
            # Open dimensions are -1 there; a model without any may have an empty signature.
            shape = x["shape_signature"] if len(x["shape_signature"]) else x["shape"]
            # NumPy 1 calls its bool `bool_`.
            dtype = x["dtype"].__name__.removesuffix("_")
            inputs[name] = Input(tuple(None if n < 0 else int(n) for n in shape), dtype)
        return inputs

    def prepare(self, arrays: dict[str, Any]) -> Run:
        """Gives the inputs an interpreter of their own: resizing one would prepare it anew."""
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
