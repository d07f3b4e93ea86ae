"""Reads Keras' graph of nodes into calls, nested models inlined."""

from __future__ import annotations

import inspect
from typing import Any

import keras
from keras import tree

from keras_branch_prune.common import (
    input_structure,
    nodes_in_order,
    operation_of,
    output_structure,
    sequential_graph,
)
from keras_branch_prune.graph.graph import Call, Unit, Value
from keras_branch_prune.graph.rewriting import pack, unique_name


class GraphReader:
    """Reads Keras' graph of nodes into calls, inlining nested models."""

    def __init__(self) -> None:
        self.input_units: list[Unit] = []
        self.input_values: list[Value] = []
        self.calls: list[Call] = []
        self._units: dict[int, Unit] = {}
        self._names: set[str] = set()

    def read(self, function: Any) -> tuple[Any, Any]:
        """Reads a whole model; returns its inputs and outputs in their structures."""
        self.input_units = [self._unit(operation_of(tensor), "") for tensor in function.inputs]
        self.input_values = [_value_of(tensor) for tensor in function.inputs]
        tensors = dict(zip(map(id, function.inputs), self.input_values, strict=True))
        outputs = self._inline(function, tensors, "", {})
        return pack(input_structure(function), function.inputs, self.input_values), outputs

    def _inline(self, function: Any, tensors: dict[int, Any], prefix: str, context: dict) -> Any:
        """Reads the nodes of `function`; `tensors` maps ids of Keras tensors to values."""
        for node in nodes_in_order(function):
            # Keras' own `Function._run_through_graph` skips such nodes too.
            if any(id(tensor) not in tensors for tensor in node.input_tensors):
                continue
            args, kwargs = node.arguments.fill_in(tensors)
            operation = node.operation
            kwargs = {**kwargs, **_accepted_context(operation, context)}
            if _is_inlinable(operation):
                outputs = self._call_model(operation, args, kwargs, prefix)
            else:
                outputs = tuple(_value_of(tensor) for tensor in node.outputs)
                self.calls.append(Call(self._unit(operation, prefix), args, kwargs, outputs))
            tensors.update(zip(map(id, node.outputs), outputs, strict=True))
        return tree.map_structure(lambda tensor: tensors[id(tensor)], output_structure(function))

    def _call_model(self, model: Any, args: tuple, kwargs: dict, prefix: str) -> Any:
        function = functional_graph(model, model.name)
        values = [leaf for leaf in tree.flatten(args) if isinstance(leaf, Value)]
        tensors = dict(zip(map(id, function.inputs), values, strict=True))
        # Keras hands `training=False` of a nested call on to the layers inside: written out here.
        context = {"training": kwargs["training"]} if "training" in kwargs else {}
        return tree.flatten(self._inline(function, tensors, f"{prefix}{model.name}__", context))

    def _unit(self, operation: Any, prefix: str) -> Unit:
        # One unit for all calls of a shared layer; its name is that of the first place it is met.
        if id(operation) not in self._units:
            _refuse_quantized(operation)
            name = unique_name(prefix + operation.name, self._names)
            weights = tuple(getattr(operation, "weights", ()))
            config = {**_config_of(operation), "name": name}
            self._units[id(operation)] = Unit(name, type(operation), config, weights)
        return self._units[id(operation)]


def functional_graph(model: Any, name: str) -> Any:
    """Returns the object that holds the functional graph of `model`.

    Args:
        model: What should be a built functional or Sequential model.
        name: How messages call it.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it is not built, is subclassed or overrides `call`.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`{name}` must be a keras.Model. Received: {type(model).__name__}")
    if isinstance(model, keras.Sequential):
        graph = sequential_graph(model)
        if not model.built or graph is None:
            raise ValueError(
                f"`{name}` must be built. Received: the Sequential model '{model.name}' without an "
                "input shape; add a keras.Input or call `model.build(input_shape)` first."
            )
        return graph
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


# The class of functional models has no public name.
_FUNCTIONAL_CALL = _functional_call()


def _accepted_context(operation: Any, context: dict) -> dict:
    """Returns the part of a nested model's call context (`training`) that `operation` takes."""
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
