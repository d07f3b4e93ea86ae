"""The runtimes on TensorFlow: Keras, SavedModels, and products of matrices to compare with.

`Keras` also imports the package around this folder, whose layers a `.keras` file may contain.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from .base import Input, Options, Run, Runtime


class TensorFlow(Runtime):
    """What the runtimes on TensorFlow share."""

    def __init__(self) -> None:
        import tensorflow as tf

        self._tf: Any = tf
        self.versions = {"TensorFlow": tf.__version__}

    def _configure(self, options: Options) -> None:
        config = self._tf.config
        if options.threads:
            config.threading.set_intra_op_parallelism_threads(options.threads)
            config.threading.set_inter_op_parallelism_threads(1)
        gpus = config.list_physical_devices("GPU")
        if options.device == "cpu":
            config.set_visible_devices([], "GPU")
            return
        if not gpus:
            raise SystemExit("TensorFlow sees no GPU")
        config.set_visible_devices(gpus[:1], "GPU")
        # TensorFlow would reserve all memory, but several processes share the GPU in turns.
        config.experimental.set_memory_growth(gpus[0], True)
        details = config.experimental.get_device_details(gpus[0])
        self.gpu = details.get("device_name", "GPU")

    def vram_mib(self) -> float | None:
        """Returns the peak GPU memory, MiB; None if there is no GPU in use."""
        if self.gpu is None:
            return None
        return self._tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20


class SavedModel(TensorFlow):
    """The signature `serving_default` of a SavedModel."""

    def load(self, path: str, options: Options) -> None:
        """Loads the signature."""
        self._configure(options)
        # Without this reference the variables of the signature would be collected.
        self._loaded = self._tf.saved_model.load(path)
        self._serve = self._loaded.signatures["serving_default"]
        self._specs = self._serve.structured_input_signature[1]

    def inputs(self) -> dict[str, Input]:
        """Returns the inputs of the signature."""
        return {name: Input(tuple(x.shape), x.dtype.name) for name, x in self._specs.items()}

    def prepare(self, arrays: dict[str, Any]) -> Run:
        """Moves the inputs to the device."""
        cast, constant = self._tf.cast, self._tf.constant
        tensors = {name: cast(constant(x), self._specs[name].dtype) for name, x in arrays.items()}

        def run() -> dict[str, Any]:
            # A GPU computes asynchronously: reading the outputs waits for them.
            return {name: x.numpy() for name, x in self._serve(**tensors).items()}

        return run


class Keras(TensorFlow):
    """`predict_on_batch` of a `.keras` file."""

    def __init__(self) -> None:
        import keras

        _import_package("keras_branch_prune", Path(__file__).parents[1])
        super().__init__()
        self._keras: Any = keras
        self.versions["Keras"] = keras.__version__

    def load(self, path: str, options: Options) -> None:
        """Loads the file."""
        self._configure(options)
        self._model = self._keras.models.load_model(path, compile=False)

    def inputs(self) -> dict[str, Input]:
        """Returns the inputs of the model, flat."""
        return {x.name: Input(tuple(x.shape), x.dtype) for x in self._model.inputs}

    def prepare(self, arrays: dict[str, Any]) -> Run:
        """Packs the inputs as the model takes them."""
        tree = self._keras.tree
        inputs = tree.pack_sequence_as(self._model.input, list(arrays.values()))

        def run() -> dict[str, Any]:
            outputs = tree.flatten(self._model.predict_on_batch(inputs))
            return {str(index): output for index, output in enumerate(outputs)}

        return run


class MatMul(TensorFlow):
    """The product of two large float32 matrices: as fast as the hardware computes, and no model."""

    def load(self, path: str, options: Options) -> None:
        """Chooses the size; there is no model to load."""
        self._configure(options)
        self._side = 2048 if options.device == "cpu" else 8192
        # One multiplication and one addition per product of two numbers.
        self.flop = 2 * self._side**3

    def inputs(self) -> dict[str, Input]:
        """Returns none: the matrices are made here."""
        return {}

    def prepare(self, arrays: dict[str, Any]) -> Run:
        """Makes the matrices."""
        matrices = [self._tf.random.stateless_uniform([self._side] * 2, [0, i]) for i in range(2)]
        # One number is enough to wait for all of them; copying all from a GPU takes long.
        return lambda: {"corner": self._tf.matmul(*matrices)[0, 0].numpy()}


def _import_package(name: str, folder: Path) -> None:
    """Imports a package from its folder, which need not be on the path, unless it is there."""
    if name not in sys.modules:
        spec: Any = importlib.util.spec_from_file_location(name, folder / "__init__.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
