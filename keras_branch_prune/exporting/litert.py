"""Export to LiteRT (formerly TensorFlow Lite), the runtime for phones and small devices."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import tensorflow as tf

from keras_branch_prune.exporting.base import ConverterInput, Format, export_converted

FORMAT = Format(
    title="LiteRT",
    noun="a `.tflite` file",
    runtime="litert",
    export=lambda model, path, compared: export_litert(model, path, verify=False),
    suffix=".tflite",
    extra="litert",
    runtime_modules=("ai_edge_litert",),
    tolerances={None: 0.0, "float16": 1e-2, "int8": 1e-1},
)


def export_litert(
    model: keras.Model,
    path: str | os.PathLike[str],
    verify: bool = True,
    quantize: str | None = None,
) -> Path:
    """Writes a model as a LiteRT file for inference, with TensorFlow's own converter.

    The inference form, the names and the open dimensions are those of `export_saved_model`, and
    the signature is `serving_default`; an output with the name of an input gets a suffix `_1`.
    Only LiteRT's built-in operations are used. A model that needs others, such as recurrent layers
    of an open batch or computations in half precision, is refused. An existing file is replaced.

    Example:
        >>> from ai_edge_litert.interpreter import Interpreter
        >>> inputs = keras.Input((4,), name="features")
        >>> model = keras.Model(inputs, keras.layers.Dense(2, name="scores")(inputs))
        >>> path = keras_branch_prune.export_litert(model, "scores.tflite")
        >>> run = Interpreter(str(path)).get_signature_runner("serving_default")
        >>> run(features=np.ones((3, 4), "float32"))["scores"].shape
        (3, 2)

    Args:
        model: A built functional or Sequential model.
        path: File to write; must end in `.tflite`.
        verify: Whether to run the file in a fresh process, at batch 1 and 3, and to compare it with
            `model`: max|difference| / max|output| must be ≤ 1e-5 per output.
        quantize: How weights are stored. None: as they are. "float16": in half the size, verified
            to 1e-2. "int8": those of 1,024 values or more in a quarter of the size ("dynamic
            range": LiteRT may also round what they are multiplied with), verified to 1e-1.

    Returns:
        The path of the file.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, has no functional graph or contains a quantized layer, or
            another argument is none of the above.
        FileExistsError: If `path` is a folder.
        ImportError: If `ai-edge-litert`, needed to verify, is missing.
        ExportError: If the conversion or the verification fails; nothing is written then.
        RuntimeError: If Keras does not run on TensorFlow.
    """

    def convert(source: ConverterInput, target: Path) -> None:
        # The names are kept only if the variables are found in the module.
        module = tf.Module()
        module.variables_of_model = source.variables
        converter = tf.lite.TFLiteConverter.from_concrete_functions([source.function], module)
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        target.write_bytes(converter.convert())

    return export_converted(model, path, FORMAT, convert, verify, quantize)
