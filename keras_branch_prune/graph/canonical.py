"""The canonical form: any functional Keras model as one flat graph of operations, held as data.

Nested models and Sequentials are inlined (the layer "conv" of a model "encoder" becomes
"encoder__conv"); separable convolutions, multi-head attention and fused activations are split. So
the rest of the package sees one simple form. The user's model is neither changed nor copied: a
`Unit` refers to the variables of the layer it was read from.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_branch_prune.graph.activations import fuse_activations, split_activations
from keras_branch_prune.graph.attention import fuse_attention, split_attention
from keras_branch_prune.graph.graph import Graph, Unit
from keras_branch_prune.graph.reading import GraphReader, functional_graph
from keras_branch_prune.graph.rewriting import replace_units
from keras_branch_prune.graph.separable import split_separable, unwrap_dense


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
    function = functional_graph(model, "model")
    reader = GraphReader()
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
    # Activations last: an unwrapped Dense and a pointwise convolution bring theirs along.
    graph = split_separable(split_attention(unwrap_dense(graph)))
    return split_activations(graph)


def _keep_output_names(graph: Graph, names: Sequence[str]) -> Graph:
    """Gives an inlined nested model's last operation the nested model's name.

    Keras names a model's outputs after the operations that make them, and losses are keyed by
    these names; inlining must not change them.
    """
    producer = graph.producer()
    renamed: dict[Unit, Unit] = {}
    taken = {call.unit.name for call in graph.calls}
    for value, name in zip(graph.output_values, names, strict=True):
        # An output that is an input has no producer. A unit of two outputs takes the first's name.
        unit = producer[value].unit if value in producer else None
        if unit and unit.name != name and name not in taken and unit not in renamed:
            renamed[unit] = unit.replace(name=name)
            taken.add(name)
    return replace_units(graph, renamed)


def fuse(graph: Graph) -> Graph:
    """Puts split attention and activations back: stock layers, as in the user's model."""
    return fuse_activations(fuse_attention(graph))
