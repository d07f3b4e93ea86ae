"""All that this package uses of Keras without a public name; no other module does.

A new version of Keras that breaks something breaks it here. `tests/test_architecture.py` counts the
names, so that none is added unnoticed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.saving import serialization_lib


def operation_of(tensor: Any) -> Any:
    """Returns the layer or operation that made a symbolic tensor; `None` if nothing did."""
    history = getattr(tensor, "_keras_history", None)
    return None if history is None else history.operation


def output_index(tensor: Any) -> int:
    """Returns which of the outputs of its operation a symbolic tensor is."""
    return int(tensor._keras_history.tensor_index)


def mask_of(tensor: Any) -> Any:
    """Returns the mask that a layer has attached to a tensor; `None` if there is none."""
    return getattr(tensor, "_keras_mask", None)


def sequential_graph(model: keras.Sequential) -> Any:
    """Returns the functional graph of a Sequential model; `None` before it is built."""
    return model._functional


def nodes_in_order(function: Any) -> Iterator[Any]:
    """Yields the calls of a functional graph, each after those that it reads from."""
    # Depth is the distance to the outputs. `layer._inbound_nodes` would also list the layer's calls
    # in other models.
    for depth in sorted(function._nodes_by_depth, reverse=True):
        for node in function._nodes_by_depth[depth]:
            if node.operation is not None and not node.is_input:
                yield node


def input_structure(function: Any) -> Any:
    """Returns the symbolic inputs of a functional graph, nested as it takes them."""
    return function._inputs_struct


def output_structure(function: Any) -> Any:
    """Returns the symbolic outputs of a functional graph, nested as it returns them."""
    return function._outputs_struct


def application_layer(module: str, name: str) -> type | None:
    """Returns a layer class that is defined inside `keras.applications`, if this Keras has it."""
    try:
        return getattr(importlib.import_module(f"keras.src.applications.{module}"), name, None)
    except ImportError:
        return None


def scoped_objects() -> dict[str, Any]:
    """Returns the objects of an enclosing `keras.saving.custom_object_scope`."""
    return global_state.get_global_attribute("custom_objects_scope_dict") or {}


def record_variables(record: list[Any]) -> None:
    """Lets Keras append to `record` all variables that this thread makes without values.

    It makes such variables, with a shape but no memory, inside a `keras.StatelessScope`.
    """
    global_state.set_global_attribute("uninitialized_variables", record)


def object_sharing_scope() -> AbstractContextManager[Any]:
    """Returns the scope in which objects that a config names twice are made once."""
    return serialization_lib.ObjectSharingScope()


def safe_mode_scope() -> AbstractContextManager[Any]:
    """Returns the scope in which no file runs code, whatever was enabled before."""
    # `load_model(safe_mode=True)` gives way to an earlier `enable_unsafe_deserialization()`.
    return serialization_lib.SafeModeScope(True)
