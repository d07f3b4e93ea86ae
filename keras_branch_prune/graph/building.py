"""Builds a Keras model from a graph, or the layer of one call alone."""

from __future__ import annotations

from typing import Any

import keras
from keras import tree

from keras_branch_prune.graph.graph import Call, Graph, Unit
from keras_branch_prune.graph.rewriting import pack, unique_name


class ModelBuilder:
    """Builds a Keras model from units: one layer per unit, its weights set by `finish`.

    A layer has no variables before its first call, and deferred weights are large: `finish` makes
    one layer's arrays at a time.
    """

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
        """Calls the layer of `unit`, which is made at its first call and shared by later ones.

        Args:
            unit: A unit, of this graph or another.
            *args: What the layer is called with: symbolic tensors and constants.
            **kwargs: Likewise.

        Raises:
            ValueError: If the layer cannot be rebuilt from its config.
        """
        if unit not in self._layers:
            self._layers[unit] = self._instantiate(unit)
        return self._layers[unit](*args, **kwargs)

    def finish(self, outputs: Any) -> keras.Model:
        """Returns the model with these outputs (in the graph's structure) and all weights set.

        Raises:
            ValueError: If a rebuilt layer expects weights of other shapes.
        """
        inputs = pack(self._graph.inputs, self._graph.input_values, self.inputs)
        model = keras.Model(inputs, outputs, name=self._graph.name)
        for unit, layer in self._layers.items():
            if unit.weights:
                _set_weights(layer, unit)
        return model

    def _instantiate(self, unit: Unit) -> Any:
        # What `branch` adds may be called like a layer of the user; Keras wants unique names.
        name = unique_name(unit.name, self._names)
        return (unit if name == unit.name else unit.replace(name=name)).build()


class LayerRunner:
    """The layer of a call on its own, with copies of its weights, to be called on tensors.

    Args:
        call: A call of the graph; its shapes build the layer.

    Raises:
        ValueError: If the layer cannot be rebuilt from its config.
    """

    def __init__(self, call: Call):
        self._layer = call.unit.build()
        # A call on symbolic tensors makes the variables without computing anything.
        args, kwargs = call.bind(lambda value: keras.KerasTensor(value.shape, value.dtype))
        self._layer(*args, **kwargs)
        if call.unit.weights:
            _set_weights(self._layer, call.unit)

    def __call__(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Returns the outputs of the layer in inference mode, as tensors, flat."""
        return tree.flatten(self._layer(*args, **kwargs))


def build_model(graph: Graph) -> keras.Model:
    """Returns a new Keras model that computes `graph`, with copies of all weights.

    Raises:
        ValueError: If a layer cannot be rebuilt from its config, or then expects other weights.
    """
    builder = ModelBuilder(graph)
    outputs = graph.run(
        builder.inputs, lambda call, *args, **kwargs: builder.apply(call.unit, *args, **kwargs)
    )
    return builder.finish(outputs)


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
