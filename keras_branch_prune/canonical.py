"""The canonical form: any functional Keras model as one flat graph of operations, held as data.

A `Graph` lists the calls of a model in topological order. Nested models and Sequentials are inlined
(`outer__inner` names) and activations fused into linear layers are split off, so that the rest of
the package sees one simple form. Nothing here changes or copies the user's model: a `Unit` refers
to the variables of the layer it was read from and copies them only when a new model is built.

This is the only module that touches Keras' private graph attributes.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

ACTIVATION_SUFFIX = "__activation"

_FUSED_ACTIVATION_LAYERS = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """One operation as data: its class, its config and where its weights come from.

    Args:
        name: Unique name in the graph.
        cls: The Keras layer or operation class.
        config: What `cls.from_config` takes.
        weights: Keras variables or arrays, in the order of the layer's `weights`.
    """

    name: str
    cls: Any
    config: Mapping[str, Any]
    weights: tuple[Any, ...] = ()

    def arrays(self) -> list[np.ndarray]:
        """Returns the weights as arrays, in the order of the layer's `weights`."""
        return [w if isinstance(w, np.ndarray) else w.numpy() for w in self.weights]

    def replace(self, **changes: Any) -> Unit:
        """Returns a copy with some fields changed; `config` is updated, not replaced."""
        config = {**self.config, **changes.pop("config", {})}
        unit = dataclasses.replace(self, config=config, **changes)
        return dataclasses.replace(unit, config={**config, "name": unit.name})

    def build(self) -> Any:
        """Returns a new layer or operation; its weights are set once it was called."""
        try:
            return self.cls.from_config(dict(self.config))
        except Exception as error:
            raise ValueError(
                f"Layer '{self.name}' of class {self.cls.__name__} cannot be rebuilt from its "
                f"`get_config()`: {error}. A layer must return from `get_config` all that its "
                "`__init__` needs."
            ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph, known by identity. `shape` includes the batch dimension (`None`)."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One use of a unit. `args` and `kwargs` hold a `Value` where the layer takes a tensor."""

    unit: Unit
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Value, ...]

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The tensors this call reads, in order."""
        leaves = tree.flatten((self.args, dict(self.kwargs)))
        return tuple(leaf for leaf in leaves if isinstance(leaf, Value))


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A model as a flat list of calls.

    Args:
        name: Name of the model.
        input_units: One `InputLayer` unit per model input, beside `input_values`.
        input_values: The model inputs, flat.
        inputs: The model inputs in the structure in which the model takes them.
        outputs: The model outputs in the structure in which the model returns them.
        calls: All calls in topological order.
    """

    name: str
    input_units: tuple[Unit, ...]
    input_values: tuple[Value, ...]
    inputs: Any
    outputs: Any
    calls: tuple[Call, ...]

    @property
    def output_values(self) -> tuple[Value, ...]:
        """The model outputs, flat."""
        return tuple(tree.flatten(self.outputs))

    def consumers(self) -> dict[Value, list[Call]]:
        """Returns for every tensor the calls that read it."""
        readers: dict[Value, list[Call]] = {}
        for call in self.calls:
            for value in dict.fromkeys(call.inputs):
                readers.setdefault(value, []).append(call)
        return readers

    def producer(self) -> dict[Value, Call]:
        """Returns for every tensor that is not a model input the call that makes it."""
        return {value: call for call in self.calls for value in call.outputs}

    def run(self, inputs: Sequence[Any], apply: Callable[..., Any]) -> Any:
        """Runs the graph on anything.

        Args:
            inputs: One object per model input, in the order of `input_values`.
            apply: Called as `apply(call, *args, **kwargs)` with each `Value` replaced by the object
                that stands for it; returns one object per output of the call, in any nesting.

        Returns:
            The objects that stand for the outputs, in the structure of `outputs`.
        """
        objects: dict[Value, Any] = dict(zip(self.input_values, inputs, strict=True))

        def lookup(leaf: Any) -> Any:
            return objects[leaf] if isinstance(leaf, Value) else leaf

        for call in self.calls:
            args, kwargs = tree.map_structure(lookup, (call.args, dict(call.kwargs)))
            results = tree.flatten(apply(call, *args, **kwargs))
            objects.update(zip(call.outputs, results, strict=True))
        return tree.map_structure(lookup, self.outputs)


class ModelBuilder:
    """Builds a Keras model from units: one layer per unit, weights copied when all is connected."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._layers: dict[Unit, Any] = {}
        self._names: set[str] = set()
        self._input_layers = [self._instantiate(unit) for unit in graph.input_units]

    @property
    def inputs(self) -> list[Any]:
        """The symbolic inputs, flat, in the order of the graph's `input_values`."""
        return [layer.output for layer in self._input_layers]

    def apply(self, unit: Unit, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer of `unit`, which is made at its first call and shared by later ones."""
        if unit not in self._layers:
            self._layers[unit] = self._instantiate(unit)
        return self._layers[unit](*args, **kwargs)

    def finish(self, outputs: Any) -> keras.Model:
        """Returns the model with these outputs (in the graph's structure) and all weights set."""
        inputs = _pack(self._graph.inputs, self._graph.input_values, self.inputs)
        model = keras.Model(inputs, outputs, name=self._graph.name)
        for unit, layer in self._layers.items():
            if unit.weights:
                _set_weights(layer, unit)
        return model

    def _instantiate(self, unit: Unit) -> Any:
        name = unique_name(unit.name, self._names)
        return (unit if name == unit.name else unit.replace(name=name)).build()


def build_model(graph: Graph) -> keras.Model:
    """Returns a new Keras model that computes `graph`, with copies of all weights."""
    builder = ModelBuilder(graph)
    outputs = graph.run(
        builder.inputs, lambda call, *args, **kwargs: builder.apply(call.unit, *args, **kwargs)
    )
    return builder.finish(outputs)


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
    return _split_activations(_keep_output_names(graph, function.output_names))


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
        return _pack(function._inputs_struct, function.inputs, self.input_values), outputs

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


def _pack(structure: Any, flat: Sequence[Any], replacements: Sequence[Any]) -> Any:
    """Replaces the leaves of `structure` that are in `flat` by those of `replacements`."""
    by_id = dict(zip(map(id, flat), replacements, strict=True))
    return tree.map_structure(lambda leaf: by_id[id(leaf)], structure)


def _set_weights(layer: Any, unit: Unit) -> None:
    arrays = unit.arrays()
    shapes = [tuple(weight.shape) for weight in layer.weights]
    if shapes != [array.shape for array in arrays]:
        raise ValueError(
            f"Layer '{unit.name}' of class {unit.cls.__name__}, rebuilt from its config, expects "
            f"weights of shapes {shapes}. Received: {[array.shape for array in arrays]}"
        )
    layer.set_weights(arrays)
    # `keras.layers.Normalization` keeps constants computed from its weights.
    if hasattr(layer, "finalize_state"):
        layer.finalize_state()


def unique_name(name: str, taken: set[str]) -> str:
    """Returns `name`, or `name_1`, `name_2`, … if it is taken, and notes it as taken."""
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def replace_units(graph: Graph, replacement: Mapping[Unit, Unit]) -> Graph:
    """Returns the graph with some units replaced by others."""
    calls = tuple(
        dataclasses.replace(call, unit=replacement.get(call.unit, call.unit))
        for call in graph.calls
    )
    return dataclasses.replace(graph, calls=calls)


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
