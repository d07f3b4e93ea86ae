"""A model as a flat graph of operations, held as data, and the way back to a Keras model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree


@dataclasses.dataclass(frozen=True, eq=False)
class Deferred:
    """An array that is computed each time it is asked for, so that nobody need hold a large one.

    Args:
        shape: Shape of the array.
        make: Returns the array.
    """

    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    def numpy(self) -> np.ndarray:
        """Returns the array, as a Keras variable does."""
        return self.make()


def as_array(weight: Any) -> np.ndarray:
    """Returns a weight of a unit (an array, a deferred one or a variable) as an array."""
    # TensorFlow returns a scalar variable as a NumPy scalar, which is no array.
    return weight if isinstance(weight, np.ndarray) else np.asarray(weight.numpy())


def is_finite(array: np.ndarray) -> bool:
    """Whether an array has no NaN and nothing infinite, in whatever dtype."""
    # NumPy does not count bfloat16 among its inexact types.
    return "float" not in array.dtype.name or bool(np.isfinite(array).all())


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """One operation as data: its class, its config and where its weights come from.

    Args:
        name: Unique name in the graph.
        cls: The Keras layer or operation class.
        config: What `cls.from_config` takes.
        weights: Keras variables, arrays or deferred arrays, in the order of the layer's `weights`.
    """

    name: str
    cls: Any
    config: Mapping[str, Any]
    weights: tuple[Any, ...] = ()

    def arrays(self) -> list[np.ndarray]:
        """Returns the weights as arrays, in the order of the layer's `weights`."""
        return [as_array(weight) for weight in self.weights]

    def replace(self, **changes: Any) -> Unit:
        """Returns a copy with some fields changed; `config` is updated, not replaced."""
        config = {**self.config, **changes.pop("config", {})}
        unit = dataclasses.replace(self, config=config, **changes)
        return dataclasses.replace(unit, config={**config, "name": unit.name})

    def build(self) -> Any:
        """Returns a new layer or operation; its weights are set once it was called."""
        try:
            if issubclass(self.cls, keras.layers.Layer):
                return self.cls.from_config(dict(self.config))
            return self._build_operation()
        except Exception as error:
            raise ValueError(
                f"Layer '{self.name}' of class {self.cls.__name__} cannot be rebuilt from its "
                f"`get_config()`: {error}. A layer must return from `get_config` all that its "
                "`__init__` needs."
            ) from error

    def _build_operation(self) -> Any:
        # Some constructors take no name: it is set afterwards.
        config = {key: value for key, value in self.config.items() if key != "name"}
        operation = self.cls.from_config(config)
        operation.name = self.name
        return operation


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

    def replace_unit(self, **changes: Any) -> Call:
        """Returns the call with some fields of its unit changed, see `Unit.replace`."""
        return dataclasses.replace(self, unit=self.unit.replace(**changes))

    def bind(self, lookup: Callable[[Value], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns args and kwargs with each `Value` replaced by what `lookup` returns for it."""
        return tree.map_structure(
            lambda leaf: lookup(leaf) if isinstance(leaf, Value) else leaf,
            (self.args, dict(self.kwargs)),
        )


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
            # `x + x` reads x twice and is one reader.
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
        for call in self.calls:
            args, kwargs = call.bind(objects.__getitem__)
            results = tree.flatten(apply(call, *args, **kwargs))
            objects.update(zip(call.outputs, results, strict=True))
        return tree.map_structure(objects.__getitem__, self.outputs)
