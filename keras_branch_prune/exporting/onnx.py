"""Export to ONNX, the exchange format that ONNX Runtime and many others run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_branch_prune.exporting.base import ConverterInput, Format, export_converted
from keras_branch_prune.exporting.onnx_weights import store_weights
from keras_branch_prune.exporting.serving import freeze_function

FORMAT = Format(
    title="ONNX",
    noun="an `.onnx` file",
    runtime="onnxruntime",
    export=lambda model, path, compared: export_onnx(model, path, verify=False),
    suffix=".onnx",
    extra="onnx",
    converter_modules=("onnx", "tf2onnx"),
    runtime_modules=("onnxruntime",),
    tolerances={None: 0.0, "float16": 1e-2, "int8": 1e-1},
)


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    verify: bool = True,
    quantize: str | None = None,
) -> Path:
    """Writes a model as an ONNX file for inference, with tf2onnx.

    The inference form, the names and the open dimensions are those of `export_saved_model`; an
    output with the name of an input gets a suffix `_1`. The format takes no more than 2 GB. An
    existing file is replaced.

    Example:
        >>> import onnxruntime
        >>> inputs = keras.Input((4,), name="features")
        >>> model = keras.Model(inputs, keras.layers.Dense(2, name="scores")(inputs))
        >>> path = keras_branch_prune.export_onnx(model, "scores.onnx")
        >>> session = onnxruntime.InferenceSession(path)
        >>> session.run(["scores"], {"features": np.ones((3, 4), "float32")})[0].shape
        (3, 2)

    Args:
        model: A built functional or Sequential model.
        path: File to write; must end in `.onnx`.
        verify: Whether to run the file with ONNX Runtime in a fresh process, at batch 1 and 3, and
            to compare it with `model`: max|difference| / max|output| must be ≤ 1e-5 per output
            (1e-2 for float16). The form of the file is checked in any case.
        quantize: How weights of 1,024 values or more are stored. None: as they are. "float16": in
            half the size, verified to 1e-2. "int8": in a quarter of the size, with a scale per
            channel, verified to 1e-1. All are computed with in the model's dtype, so files become
            smaller, but not faster.

    Returns:
        The path of the file.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, has no functional graph or contains a quantized layer, or
            `path` or `quantize` is none of the above.
        FileExistsError: If `path` is a folder.
        ImportError: If `onnx`, `tf2onnx` or, to verify, `onnxruntime` is missing.
        ExportError: If the conversion or the verification fails; nothing is written then.
        RuntimeError: If Keras does not run on TensorFlow.
    """

    def convert(source: ConverterInput, target: Path) -> None:
        import onnx

        proto = _make_proto(source)
        store_weights(proto, quantize)
        # tf2onnx only logs an operation that it cannot convert, and leaves it in the file.
        onnx.checker.check_model(proto)
        target.write_bytes(proto.SerializeToString())

    return export_converted(model, path, FORMAT, convert, verify, quantize)


def _make_proto(source: ConverterInput) -> Any:
    """Returns the model as an `onnx.ModelProto`."""
    import tf2onnx

    specs = source.function.structured_input_signature[1]
    proto, _ = tf2onnx.convert.from_function(
        _make_positional(source),
        input_signature=[specs[name] for name in source.names.inputs],
        custom_op_handlers={"Erfc": (_write_erfc, [])},
    )
    return proto


def _make_positional(source: ConverterInput) -> Any:
    """Returns the model as a function of its inputs in order, without variables."""
    run, names = freeze_function(source.function), source.names

    @tf.function(autograph=False)
    def serve(*tensors: Any) -> dict[str, Any]:
        by_name = dict(zip(names.inputs, tensors, strict=True))
        # `freeze_function` takes and returns tensors flat, and TensorFlow sorts dicts by key.
        results = run(*[by_name[name] for name in sorted(by_name)])
        return dict(zip(sorted(names.outputs), results, strict=True))

    return serve


def _write_erfc(context: Any, node: Any, name: str, args: Any) -> None:
    """Writes erfc(x), which ONNX lacks, as 1 − erf(x): exact GELU needs it."""
    import tf2onnx

    (result,) = node.output
    dtype = tf2onnx.utils.map_onnx_to_numpy_type(context.get_dtype(result))
    one = context.make_const(f"{name}_one", np.ones((), dtype)).output[0]
    node.type = "Erf"
    context.insert_new_node_on_output("Sub", result, name=f"{name}_sub", inputs=[one, result])
