"""The inference form: BatchNormalization folded, layers that only act in training removed."""

from __future__ import annotations

import keras
from keras import layers

from keras_branch_prune.exporting.batch_norm_folding import fold_norms
from keras_branch_prune.graph import (
    Call,
    Graph,
    Unit,
    build_model,
    canonical,
    fuse_attention,
    replace_units,
    substitute,
)

_TRAINING_ONLY = frozenset(
    {
        layers.Dropout,
        layers.SpatialDropout1D,
        layers.SpatialDropout2D,
        layers.SpatialDropout3D,
        layers.AlphaDropout,
        layers.GaussianDropout,
        layers.GaussianNoise,
        layers.ActivityRegularization,
    }
)
"""Layers that return their input at inference."""


def inference_form(model: keras.Model) -> keras.Model:
    """Returns a model that predicts the same with fewer operations; the input model is untouched.

    BatchNormalization is folded into the linear layers before or after it, see `fold_batch_norm`.
    The Dropout family, Gaussian noise and ActivityRegularization are removed, unless they are
    called with `training=True`. Input and output names stay, for which an `Identity` layer takes
    the place of a removed one that makes an output. The result is for inference: training it is not
    equal to training `model`.

    Example:
        >>> inputs = keras.Input((8, 8, 3))
        >>> x = keras.layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
        >>> x = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(x))
        >>> x = keras.layers.Dense(2, name="scores")(x)
        >>> form = inference_form(keras.Model(inputs, x))
        >>> [layer.name for layer in form.layers[1:]]
        ['conv', 'scores']

    Args:
        model: A built functional or Sequential model, nested models allowed.

    Returns:
        A flat functional model of stock layers where `model` has them.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, has no functional graph, or contains a quantized layer.
    """
    graph = fuse_attention(canonical(model))
    return build_model(fold_norms(remove_training_only(graph)))


def remove_training_only(graph: Graph) -> Graph:
    """Returns the graph without layers that do nothing at inference.

    One that makes a model output becomes an `Identity` layer, so that the output keeps its name.
    """
    outputs = set(graph.output_values)
    idle = [call for call in graph.calls if _does_nothing(call)]
    identities = {c.unit: _make_identity(c.unit) for c in idle if c.outputs[0] in outputs}
    source = {c.outputs[0]: c.inputs[0] for c in idle if c.outputs[0] not in outputs}
    return replace_units(substitute(graph, source), identities)


def _does_nothing(call: Call) -> bool:
    return (
        call.unit.cls in _TRAINING_ONLY
        and not call.kwargs.get("training")
        # A layer of another dtype policy than its input casts, also at inference.
        and call.inputs[0].dtype == call.outputs[0].dtype
    )


def _make_identity(unit: Unit) -> Unit:
    config = {"name": unit.name, "dtype": unit.config["dtype"]}
    return Unit(unit.name, layers.Identity, config)
