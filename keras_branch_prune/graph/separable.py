"""Takes layers apart into simpler ones: separable convolutions, `TimeDistributed(Dense)`."""

from __future__ import annotations

import dataclasses

import keras

from keras_branch_prune.graph.graph import Call, Graph, Unit, Value
from keras_branch_prune.graph.rewriting import replace_units

_SEPARABLE_LAYERS = {
    keras.layers.SeparableConv1D: (keras.layers.DepthwiseConv1D, keras.layers.Conv1D),
    keras.layers.SeparableConv2D: (keras.layers.DepthwiseConv2D, keras.layers.Conv2D),
}


def unwrap_dense(graph: Graph) -> Graph:
    """Replaces `TimeDistributed(Dense)` by the `Dense`, which does the same at every step."""
    wrapping = (c.unit for c in graph.calls if c.unit.cls is keras.layers.TimeDistributed)
    units = {unit: _make_dense(unit) for unit in wrapping if _wraps_dense(unit)}
    # Other arguments, such as a mask, are the wrapper's.
    calls = (
        dataclasses.replace(call, args=call.inputs, kwargs={}) if call.unit in units else call
        for call in graph.calls
    )
    return replace_units(dataclasses.replace(graph, calls=tuple(calls)), units)


def _make_dense(unit: Unit) -> Unit:
    config = {**unit.config["layer"]["config"], "name": unit.name}
    return dataclasses.replace(unit, cls=keras.layers.Dense, config=config)


def _wraps_dense(unit: Unit) -> bool:
    layer = unit.config["layer"]
    # In the config of `TimeDistributed(Dense(2), trainable=False)` the Dense is trainable.
    trainable = unit.config["trainable"] == layer["config"].get("trainable")
    return layer["module"] == "keras.layers" and layer["class_name"] == "Dense" and trainable


def split_separable(graph: Graph) -> Graph:
    """Splits separable convolutions into a depthwise and a pointwise one."""
    parts: dict[Unit, tuple[Unit, Unit]] = {}
    calls: list[Call] = []
    for call in graph.calls:
        if call.unit.cls not in _SEPARABLE_LAYERS:
            calls.append(call)
            continue
        if call.unit not in parts:
            parts[call.unit] = _split_convolution(call.unit)
        depthwise, pointwise = parts[call.unit]
        inner = Value(_depthwise_shape(call, depthwise), call.outputs[0].dtype)
        calls.append(dataclasses.replace(call, unit=depthwise, outputs=(inner,)))
        calls.append(Call(pointwise, (inner,), {}, call.outputs))
    return dataclasses.replace(graph, calls=tuple(calls))


def _split_convolution(unit: Unit) -> tuple[Unit, Unit]:
    first, second = _SEPARABLE_LAYERS[unit.cls]
    config, (kernel, *rest) = unit.config, unit.weights
    shared = {key: config[key] for key in ("data_format", "trainable", "dtype")}
    window = {key: config[key] for key in ("strides", "padding", "dilation_rate")}
    # Bias and activation come behind both parts: the pointwise one has them, and the layer's name.
    name, plain = f"{unit.name}__depthwise", {"use_bias": False, "activation": "linear"}
    # The multiplier, and the kernel's size, initializer, regularizer and constraint.
    sizes = {key: value for key, value in config.items() if key.startswith(("depth", "kernel_s"))}
    depthwise = Unit(name, first, {**shared, **window, **sizes, "name": name, **plain})
    outputs = {key: config[key] for key in ("filters", "activation", "use_bias", "name")}
    options = {
        key.replace("pointwise_", "kernel_"): value
        for key, value in config.items()
        if key.startswith(("pointwise_", "bias_"))
    }
    pointwise = Unit(unit.name, second, {**shared, **outputs, **options, "kernel_size": 1})
    return (
        dataclasses.replace(depthwise, weights=(kernel,)),
        dataclasses.replace(pointwise, weights=tuple(rest)),
    )


def _depthwise_shape(call: Call, depthwise: Unit) -> tuple[int | None, ...]:
    """Returns the depthwise part's output shape: the whole one's, but for the channels."""
    first = depthwise.config["data_format"] == "channels_first"
    shape, axis = list(call.outputs[0].shape), 1 if first else -1
    channels = call.inputs[0].shape[axis]
    shape[axis] = None if channels is None else channels * depthwise.config["depth_multiplier"]
    return tuple(shape)
