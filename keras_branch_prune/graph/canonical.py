"""The canonical form: any functional Keras model as one flat graph of operations, held as data.

Nested models and Sequentials are inlined (`outer__inner` names), separable convolutions, multi-head
attention and fused activations are split, so that the rest of the package sees one simple form.
The user's model is neither changed nor copied: a `Unit` refers to the variables of the layer it was
read from.

This is the only module that touches Keras' private graph attributes.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import tree

from keras_branch_prune.graph.attention import fuse_attention, split_attention
from keras_branch_prune.graph.graph import (
    Call,
    Graph,
    Unit,
    Value,
    pack,
    replace_units,
    unique_name,
)

ACTIVATION_SUFFIX = "__activation"

_FUSED_ACTIVATION_LAYERS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)

_SEPARABLE_LAYERS = {
    keras.layers.SeparableConv1D: (keras.layers.DepthwiseConv1D, keras.layers.Conv1D),
    keras.layers.SeparableConv2D: (keras.layers.DepthwiseConv2D, keras.layers.Conv2D),
}


def canonical(model: keras.Model) -> Graph:
    """Reads a model into its canonical form; the model is neither changed nor copied.

    Args:
        model: A built functional or Sequential model, nested models allowed.

    Returns:
        The flat graph, equal to the model.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, has no functional graph (a subclassed model or one that
            overrides `call`), or contains a quantized layer.
    """
    function = _functional_graph(model, "model")
    reader = _Reader()
    inputs, outputs = reader.read(function)
    graph = Graph(
        name=model.name,
        input_units=tuple(reader.input_units),
        input_values=tuple(reader.input_values),
        inputs=inputs,
        outputs=outputs,
        calls=tuple(reader.calls),
    )
    graph = _keep_output_names(graph, function.output_names)
    graph = _split_separable(split_attention(_unwrap_dense(graph)))
    return _split_activations(graph)


class _Reader:
    """Reads Keras' graph of nodes into calls, inlining nested models."""

    def __init__(self) -> None:
        self.input_units: list[Unit] = []
        self.input_values: list[Value] = []
        self.calls: list[Call] = []
        self._units: dict[int, Unit] = {}
        self._names: set[str] = set()

    def read(self, function: Any) -> tuple[Any, Any]:
        """Reads a whole model; returns its inputs and outputs in their structures."""
        self.input_units = [
            self._unit(tensor._keras_history.operation, "") for tensor in function.inputs
        ]
        self.input_values = [_value_of(tensor) for tensor in function.inputs]
        tensors = dict(zip(map(id, function.inputs), self.input_values, strict=True))
        outputs = self._inline(function, tensors, "", {})
        return pack(function._inputs_struct, function.inputs, self.input_values), outputs

    def _inline(self, function: Any, tensors: dict[int, Any], prefix: str, context: dict) -> Any:
        """Reads the nodes of `function`; `tensors` maps ids of Keras tensors to values."""
        for node in _nodes_in_order(function):
            if any(id(tensor) not in tensors for tensor in node.input_tensors):
                continue
            args, kwargs = node.arguments.fill_in(tensors)
            operation = node.operation
            kwargs = {**kwargs, **_accepted(operation, context)}
            if _is_inlinable(operation):
                outputs = self._call_model(operation, args, kwargs, prefix)
            else:
                outputs = tuple(_value_of(tensor) for tensor in node.outputs)
                self.calls.append(Call(self._unit(operation, prefix), args, kwargs, outputs))
            tensors.update(zip(map(id, node.outputs), outputs, strict=True))
        return tree.map_structure(lambda tensor: tensors[id(tensor)], function._outputs_struct)

    def _call_model(self, model: Any, args: tuple, kwargs: dict, prefix: str) -> Any:
        function = _functional_graph(model, model.name)
        values = [leaf for leaf in tree.flatten(args) if isinstance(leaf, Value)]
        tensors = dict(zip(map(id, function.inputs), values, strict=True))
        context = {"training": kwargs["training"]} if "training" in kwargs else {}
        return tree.flatten(self._inline(function, tensors, f"{prefix}{model.name}__", context))

    def _unit(self, operation: Any, prefix: str) -> Unit:
        if id(operation) not in self._units:
            _refuse_quantized(operation)
            name = unique_name(prefix + operation.name, self._names)
            weights = tuple(getattr(operation, "weights", ()))
            config = {**_config_of(operation), "name": name}
            self._units[id(operation)] = Unit(name, type(operation), config, weights)
        return self._units[id(operation)]


def _nodes_in_order(function: Any) -> Iterable[Any]:
    for depth in sorted(function._nodes_by_depth, reverse=True):
        for node in function._nodes_by_depth[depth]:
            if node.operation is not None and not node.is_input:
                yield node


def _functional_graph(model: Any, name: str) -> Any:
    """Returns the object that holds the functional graph of `model`, or raises."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`{name}` must be a keras.Model. Received: {type(model).__name__}")
    if isinstance(model, keras.Sequential):
        if not model.built or model._functional is None:
            raise ValueError(
                f"`{name}` must be built. Received: the Sequential model '{model.name}' without an "
                "input shape; add a keras.Input or call `model.build(input_shape)` first."
            )
        return model._functional
    if not isinstance(model, keras.Function):
        raise ValueError(
            f"`{name}` must be a functional or Sequential model. Received: the subclassed model "
            f"'{model.name}' of class {type(model).__name__}, which has no graph to analyse."
        )
    if not _is_inlinable(model):
        raise ValueError(
            f"`{name}` must not override `call`. Received: '{model.name}' of class "
            f"{type(model).__name__}, whose `call` may not follow its functional graph."
        )
    return model


def _is_inlinable(operation: Any) -> bool:
    """Whether a model computes exactly its functional graph."""
    if isinstance(operation, keras.Sequential):
        return type(operation).call is keras.Sequential.call
    functional = isinstance(operation, keras.Model) and isinstance(operation, keras.Function)
    return functional and type(operation).call is _FUNCTIONAL_CALL


def _functional_call() -> Any:
    tensor = keras.Input((1,))
    return type(keras.Model(tensor, tensor)).call


_FUNCTIONAL_CALL = _functional_call()


def _accepted(operation: Any, context: dict) -> dict:
    """The part of a nested model's call context (`training`) that `operation` takes."""
    if not context or not isinstance(operation, keras.layers.Layer):
        return {}
    takes = "training" in inspect.signature(operation.call).parameters
    return context if takes else {}


def _value_of(tensor: Any) -> Value:
    return Value(tuple(tensor.shape), tensor.dtype)


def _config_of(operation: Any) -> dict:
    try:
        return operation.get_config()
    except Exception as error:
        raise ValueError(
            f"Layer '{operation.name}' of class {type(operation).__name__} has no usable "
            f"`get_config()`: {error}. It is needed to copy the layer."
        ) from error


def _refuse_quantized(operation: Any) -> None:
    mode = getattr(operation, "quantization_mode", None)
    if mode is not None:
        raise ValueError(
            f"`model` must not contain quantized layers. Received: layer '{operation.name}' "
            f"quantized to '{mode}'. Prune first, then quantize the compact model."
        )


def _keep_output_names(graph: Graph, names: Sequence[str]) -> Graph:
    """Gives an inlined nested model's last operation the nested model's name.

    Keras names a model's outputs after the operations that make them, and losses are keyed by
    these names; inlining must not change them.
    """
    producer = graph.producer()
    renamed: dict[Unit, Unit] = {}
    taken = {call.unit.name for call in graph.calls}
    for value, name in zip(graph.output_values, names, strict=True):
        unit = producer[value].unit if value in producer else None
        if unit and unit.name != name and name not in taken and unit not in renamed:
            renamed[unit] = unit.replace(name=name)
            taken.add(name)
    return replace_units(graph, renamed)


def _unwrap_dense(graph: Graph) -> Graph:
    """Replaces `TimeDistributed(Dense)` by the `Dense`, which does the same at every step."""
    wrapping = (c.unit for c in graph.calls if c.unit.cls is keras.layers.TimeDistributed)
    units = {unit: _unwrapped(unit) for unit in wrapping if _wraps_dense(unit)}
    calls = (
        dataclasses.replace(call, args=call.inputs, kwargs={}) if call.unit in units else call
        for call in graph.calls
    )
    return replace_units(dataclasses.replace(graph, calls=tuple(calls)), units)


def _unwrapped(unit: Unit) -> Unit:
    config = {**unit.config["layer"]["config"], "name": unit.name}
    return dataclasses.replace(unit, cls=keras.layers.Dense, config=config)


def _wraps_dense(unit: Unit) -> bool:
    layer = unit.config["layer"]
    trainable = unit.config["trainable"] == layer["config"].get("trainable")
    return layer["module"] == "keras.layers" and layer["class_name"] == "Dense" and trainable


def _split_separable(graph: Graph) -> Graph:
    """Splits separable convolutions into a depthwise and a pointwise one."""
    parts: dict[Unit, tuple[Unit, Unit]] = {}
    calls: list[Call] = []
    for call in graph.calls:
        if call.unit.cls not in _SEPARABLE_LAYERS:
            calls.append(call)
            continue
        if call.unit not in parts:
            parts[call.unit] = _separated(call.unit)
        depthwise, pointwise = parts[call.unit]
        inner = Value(_depthwise_shape(call, depthwise), call.outputs[0].dtype)
        calls.append(dataclasses.replace(call, unit=depthwise, outputs=(inner,)))
        calls.append(Call(pointwise, (inner,), {}, call.outputs))
    return dataclasses.replace(graph, calls=tuple(calls))


def _separated(unit: Unit) -> tuple[Unit, Unit]:
    first, second = _SEPARABLE_LAYERS[unit.cls]
    config, (kernel, *rest) = unit.config, unit.weights
    shared = {key: config[key] for key in ("data_format", "trainable", "dtype")}
    window = {key: config[key] for key in ("strides", "padding", "dilation_rate")}
    name, plain = f"{unit.name}__depthwise", {"use_bias": False, "activation": "linear"}
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
    """The output's shape with the channels of the depthwise part."""
    first = depthwise.config["data_format"] == "channels_first"
    shape, axis = list(call.outputs[0].shape), 1 if first else -1
    channels = call.inputs[0].shape[axis]
    shape[axis] = None if channels is None else channels * depthwise.config["depth_multiplier"]
    return tuple(shape)


def _split_activations(graph: Graph) -> Graph:
    """Splits fused activations off, except at model outputs, whose names must not change."""
    heads = set(graph.output_values)
    keep = {call.unit for call in graph.calls if heads.intersection(call.outputs)}
    parts: dict[Unit, tuple[Unit, Unit]] = {}
    calls: list[Call] = []
    for call in graph.calls:
        if call.unit in keep or not _has_fused_activation(call.unit):
            calls.append(call)
            continue
        if call.unit not in parts:
            parts[call.unit] = _split_activation(call.unit)
        linear, activation = parts[call.unit]
        inner = Value(call.outputs[0].shape, call.outputs[0].dtype)
        calls.append(dataclasses.replace(call, unit=linear, outputs=(inner,)))
        calls.append(Call(activation, (inner,), {}, call.outputs))
    return dataclasses.replace(graph, calls=tuple(calls))


def _has_fused_activation(unit: Unit) -> bool:
    return unit.cls in _FUSED_ACTIVATION_LAYERS and unit.config["activation"] != "linear"


def _split_activation(unit: Unit) -> tuple[Unit, Unit]:
    name = unit.name + ACTIVATION_SUFFIX
    config = {key: unit.config[key] for key in ("activation", "dtype")}
    activation = Unit(name, keras.layers.Activation, {**config, "name": name})
    return unit.replace(config={"activation": "linear"}), activation


def fuse(graph: Graph) -> Graph:
    """Puts split attention and activations back: stock layers, as in the user's model."""
    return fuse_activations(fuse_attention(graph))


def fuse_activations(graph: Graph) -> Graph:
    """Puts split activations back into their layers: the inverse of the split in `canonical`.

    An activation goes back if its name says that it was split off and every call of its layer feeds
    it, and nothing else.
    """
    readers = graph.consumers()
    followers: dict[Unit, set[Unit | None]] = {}
    for call in graph.calls:
        if call.unit.cls in _FUSED_ACTIVATION_LAYERS:
            follower = _only_reader(call, readers, graph)
            name = call.unit.name + ACTIVATION_SUFFIX
            split = follower.unit if follower and follower.unit.name == name else None
            followers.setdefault(call.unit, set()).add(split)
    parts = {linear: unit for linear, (unit, *more) in followers.items() if unit and not more}
    calls = [
        dataclasses.replace(call, outputs=readers[call.outputs[0]][0].outputs)
        if call.unit in parts
        else call
        for call in graph.calls
        if call.unit not in parts.values()
    ]
    wholes = {
        linear: linear.replace(config={"activation": activation.config["activation"]})
        for linear, activation in parts.items()
    }
    return replace_units(dataclasses.replace(graph, calls=tuple(calls)), wholes)


def _only_reader(call: Call, readers: Mapping[Value, list[Call]], graph: Graph) -> Call | None:
    (output,) = call.outputs
    found = readers.get(output, [])
    return found[0] if len(found) == 1 and output not in graph.output_values else None
