"""All formats, by the names that `benchmark` knows them by as backends: one row each."""

from __future__ import annotations

from keras_branch_prune.exporting import litert, onnx, openvino, saved_model
from keras_branch_prune.exporting.base import Format
from keras_branch_prune.files import load_model, save_model

_KERAS = Format(
    title="Keras",
    noun="a `.keras` file",
    runtime="keras",
    export=lambda model, path, compared: save_model(model, path),
    load=lambda path: load_model(path, compile=False),
    suffix=".keras",
    devices=("cpu", "gpu"),
)

FORMATS: dict[str, Format] = {
    "keras": _KERAS,
    "saved_model": saved_model.FORMAT,
    "litert": litert.FORMAT,
    "onnxruntime": onnx.FORMAT,
    "openvino": openvino.FORMAT,
}
