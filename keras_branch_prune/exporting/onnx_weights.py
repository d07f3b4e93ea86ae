"""Stores the weights of an ONNX model in fewer bytes.

Weights become constants of a smaller type, which the graph turns back into floating-point numbers:
by a `Cast`, and for int8 a `Mul` with one scale per channel. ONNX Runtime folds these constants as
it loads a model, which then computes with the rounded weights as fast as before. It does not fold a
`DequantizeLinear`, which means the same: that is computed again at every call.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_LEAST_VALUES = 1024
"""Smaller weights stay, as in LiteRT: the nodes would take more bytes than the values save."""
_LARGEST = 127

_CHANNEL_AXES = {
    ("Conv", 1): 0,
    ("ConvTranspose", 1): 1,
    ("Einsum", 1): -1,
    ("GRU", 1): 1,
    ("GRU", 2): 1,
    ("Gather", 0): 0,
    ("Gemm", 1): -1,
    ("LSTM", 1): 1,
    ("LSTM", 2): 1,
    ("MatMul", 0): -2,
    ("MatMul", 1): -1,
    ("RNN", 1): 1,
    ("RNN", 2): 1,
}
"""The axis of the channels, each of which has a scale, by operation and index of the input."""


def store_weights(proto: Any, quantize: str | None) -> None:
    """Rounds the larger weights of an ONNX model to a smaller type, in place.

    Args:
        proto: An `onnx.ModelProto`. Weights within the bodies of its loops stay.
        quantize: "float16", "int8" (for weights of operations that multiply or look up), or None.

    Raises:
        ValueError: If a weight is too large for float16.
    """
    graph = proto.graph
    axes = _channel_axes(graph)
    nodes: list[Any] = []
    for tensor in list(graph.initializer):
        if not _is_large(tensor):
            continue
        if quantize == "float16":
            nodes += _store_as_float16(tensor)
        elif quantize == "int8" and tensor.name in axes:
            nodes += _store_as_int8(graph, tensor, axes[tensor.name])
    # ONNX wants nodes in topological order: these before those that take their results.
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)


def _channel_axes(graph: Any) -> dict[str, int]:
    """Returns the axis of the channels by the name of the weight."""
    return {
        name: _CHANNEL_AXES[node.op_type, index]
        for node in graph.node
        for index, name in enumerate(node.input)
        if (node.op_type, index) in _CHANNEL_AXES
    }


def _is_large(tensor: Any) -> bool:
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    return tensor.data_type in floats and int(np.prod(tensor.dims)) >= _LEAST_VALUES


def _store_as_float16(tensor: Any) -> list[Any]:
    """Stores a tensor as float16; returns the node that casts it back, under its old name."""
    import onnx

    values = onnx.numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.array_equal(np.isfinite(half), np.isfinite(values)):
        raise ValueError(f"the weight '{tensor.name}' is too large for float16")
    name, stored, dtype = tensor.name, f"{tensor.name}:float16", tensor.data_type
    tensor.CopyFrom(onnx.numpy_helper.from_array(half, stored))
    return [onnx.helper.make_node("Cast", [stored], [name], to=dtype)]


def _store_as_int8(graph: Any, tensor: Any, axis: int) -> list[Any]:
    """Stores a tensor as int8 and scales; returns the nodes that multiply the two.

    For a Dense kernel of shape `(64, 10)` the channels are axis 1 and the scales `(1, 10)`.
    """
    import onnx

    values = onnx.numpy_helper.to_array(tensor)
    others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    scales = np.abs(values).max(axis=others, keepdims=True) / _LARGEST
    # A channel of zeros would divide by 0.
    scales[scales == 0] = 1
    name, stored, scale = tensor.name, f"{tensor.name}:int8", f"{tensor.name}:scale"
    dtype, as_float = tensor.data_type, f"{stored}:float"
    rounded = np.rint(values / scales).astype(np.int8)
    tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, stored))
    graph.initializer.append(onnx.numpy_helper.from_array(scales, scale))
    return [
        onnx.helper.make_node("Cast", [stored], [as_float], to=dtype),
        onnx.helper.make_node("Mul", [as_float, scale], [name]),
    ]
