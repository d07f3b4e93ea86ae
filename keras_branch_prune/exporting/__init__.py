"""Writes a model for a runtime, and proves that it computes the same there."""

from keras_branch_prune.exporting.base import Format
from keras_branch_prune.exporting.batch_norm_folding import fold_batch_norm
from keras_branch_prune.exporting.formats import FORMATS
from keras_branch_prune.exporting.inference_form import inference_form
from keras_branch_prune.exporting.litert import export_litert
from keras_branch_prune.exporting.onnx import export_onnx
from keras_branch_prune.exporting.openvino import export_openvino
from keras_branch_prune.exporting.saved_model import export_saved_model
from keras_branch_prune.exporting.serving import inference_function
from keras_branch_prune.exporting.verification import ExportError

__all__ = [
    "FORMATS",
    "ExportError",
    "Format",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "export_saved_model",
    "fold_batch_norm",
    "inference_form",
    "inference_function",
]
