"""Export to OpenVINO, Intel's runtime for CPUs and its accelerators."""

from __future__ import annotations

import os
from pathlib import Path

import keras

from keras_branch_prune.exporting.base import ConverterInput, Format, export_converted

FORMAT = Format(
    title="OpenVINO",
    noun="an OpenVINO model",
    runtime="openvino",
    export=lambda model, path, compared: export_openvino(model, path, verify=False),
    marker="model.xml",
    extra="openvino",
    converter_modules=("openvino",),
    runtime_modules=("openvino",),
    tolerances={None: 0.0, "float16": 1e-2},
)


def export_openvino(
    model: keras.Model,
    path: str | os.PathLike[str],
    verify: bool = True,
    quantize: str | None = None,
) -> Path:
    """Writes a model as an OpenVINO model for inference: `model.xml` and `model.bin` in a folder.

    The inference form, the names and the open dimensions are those of `export_saved_model`. An
    existing OpenVINO model at `path` is replaced, and only by a complete one. A model that returns
    one of its inputs unchanged fails the verification.

    Where the hardware has units for bfloat16 or float16, OpenVINO computes in those by default; the
    verification asks for float32, as you can with `{"INFERENCE_PRECISION_HINT": "f32"}`. Importing
    OpenVINO reports its use to Intel unless you opted out (`opt_in_out --opt_out`).

    Example:
        >>> import openvino
        >>> inputs = keras.Input((4,), name="features")
        >>> model = keras.Model(inputs, keras.layers.Dense(2, name="scores")(inputs))
        >>> path = keras_branch_prune.export_openvino(model, "scores-openvino")
        >>> compiled = openvino.Core().compile_model(path / "model.xml", "CPU")
        >>> compiled({"features": np.ones((3, 4), "float32")})["scores"].shape
        (3, 2)

    Args:
        model: A built functional or Sequential model.
        path: Folder to write.
        verify: Whether to run the model in a fresh process, at batch 1 and 3, and to compare it
            with `model`: max|difference| / max|output| must be ≤ 1e-5 per output.
        quantize: How weights are stored. None: as they are. "float16": in half the size, verified
            to 1e-2.

    Returns:
        The path of the folder.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, has no functional graph or contains a quantized layer, or
            `quantize` is none of the above.
        FileExistsError: If `path` is a file, or a folder with other content than an OpenVINO model.
        ImportError: If `openvino` is missing.
        ExportError: If the conversion or the verification fails; nothing is written then.
        RuntimeError: If Keras does not run on TensorFlow.
    """

    def convert(source: ConverterInput, target: Path) -> None:
        import openvino

        converted = openvino.convert_model(source.function)
        file = target / FORMAT.marker
        openvino.save_model(converted, file, compress_to_fp16=quantize == "float16")

    return export_converted(model, path, FORMAT, convert, verify, quantize)
