"""From a graph back to a Keras model."""

from __future__ import annotations

from typing import Any

import keras
from keras import tree

from keras_branch_prune.graph.graph import Call, Graph, Unit
from keras_branch_prune.graph.rewriting import pack, unique_name


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
        inputs = pack(self._graph.inputs, self._graph.input_values, self.inputs)
        model = keras.Model(inputs, outputs, name=self._graph.name)
        for unit, layer in self._layers.items():
            if unit.weights:
                _set_weights(layer, unit)
        return model

    def _instantiate(self, unit: Unit) -> Any:
        name = unique_name(unit.name, self._names)
        return (unit if name == unit.name else unit.replace(name=name)).build()


class LayerRunner:
    """The layer of a call on its own, with copies of its weights, to be called on tensors.

    Args:
        call: A call of the graph; its shapes build the layer.
    """

    def __init__(self, call: Call):
        self._layer = call.unit.build()
        args, kwargs = call.bind(lambda value: keras.KerasTensor(value.shape, value.dtype))
        self._layer(*args, **kwargs)
        if call.unit.weights:
            _set_weights(self._layer, call.unit)

    def __call__(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Returns the outputs of the layer in inference mode, as tensors, flat."""
        return tree.flatten(self._layer(*args, **kwargs))


def build_model(graph: Graph) -> keras.Model:
    """Returns a new Keras model that computes `graph`, with copies of all weights."""
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
