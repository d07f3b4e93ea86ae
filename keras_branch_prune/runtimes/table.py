"""All runtimes by name. The library of a runtime is imported only when an instance is made."""

from collections.abc import Callable

from .base import Runtime
from .litert import LiteRT
from .onnxruntime import OnnxRuntime
from .openvino import OpenVino
from .tensorflow import Keras, MatMul, SavedModel

RUNTIMES: dict[str, Callable[[], Runtime]] = {
    "keras": Keras,
    "saved_model": SavedModel,
    "litert": LiteRT,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "matmul": MatMul,
}
