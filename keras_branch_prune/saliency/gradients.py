"""Gradients of a model's outputs, or of a loss, at tensors inside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_branch_prune.graph import Graph, Value, build_model

Loss = Callable[[Any, Any], Any]
"""A Keras loss: `loss(targets, outputs)`."""


@dataclasses.dataclass(frozen=True, eq=False)
class BatchGradients:
    """The features of one batch at all exits, and the gradients there.

    Args:
        features: One array per exit.
        output_gradients: Gradients of the sum of all outputs with random signs, one per exit.
        loss_gradients: Gradients of the loss, one per exit; empty without a loss.
        energy: Sum of the squared outputs.
    """

    features: Sequence[np.ndarray]
    output_gradients: Sequence[np.ndarray]
    loss_gradients: Sequence[np.ndarray]
    energy: float


class Gradients:
    """Runs a model on batches and differentiates at tensors inside it.

    Args:
        graph: The canonical graph of the model.
        exits: The tensors.
        loss: A Keras loss or its name, or `None`.
        seed: Seed of the random signs.
    """

    def __init__(self, graph: Graph, exits: Sequence[Value], loss: Any, seed: int):
        self._graph = graph
        outputs = {"exits": list(exits), "outputs": graph.outputs}
        self._model = build_model(dataclasses.replace(graph, outputs=outputs))
        self._loss: Loss | None = None if loss is None else keras.losses.get(loss)
        self._rng = np.random.default_rng(seed)
        self._traced: Callable[..., tuple] | None = None

    def __call__(self, inputs: Sequence[np.ndarray], targets: Any) -> BatchGradients:
        """Returns the features and gradients of one batch.

        Args:
            inputs: The inputs, flat, in the order of the graph's `input_values`.
            targets: The targets in the structure of the outputs; `None` without a loss.

        Raises:
            ValueError: If there is a loss and targets are missing.
        """
        if self._loss is not None and targets is None:
            raise ValueError(
                "`calibration` must be (inputs, targets), or batches of them, where a criterion "
                "needs the loss. Received: inputs only"
            )
        seeds = self._rng.integers(2**31, size=len(self._graph.output_values))
        tensors = [tf.convert_to_tensor(array) for array in (*inputs, seeds)]
        if self._loss is not None:
            tensors += [tf.convert_to_tensor(target) for target in tree.flatten(targets)]
        if self._traced is None:
            self._traced = self._trace(tensors)
        features, output_gradients, loss_gradients, energy = self._traced(*tensors)
        return BatchGradients(
            _to_numpy(features),
            _to_numpy(output_gradients),
            _to_numpy(loss_gradients),
            float(energy),
        )

    def _trace(self, tensors: Sequence[Any]) -> Callable[..., tuple]:
        """Returns the function for batches of any size, of tensors like these."""
        # The specs leave the sizes open that the model leaves open: a smaller last batch is not
        # traced again.
        shapes = [value.shape for value in self._graph.input_values]
        seeds, *targets = (x.shape for x in tensors[len(shapes) :])
        shapes += [seeds, *((None, *shape[1:]) for shape in targets)]
        specs = [tf.TensorSpec(s, x.dtype) for s, x in zip(shapes, tensors, strict=True)]
        return tf.function(self._differentiate, autograph=False).get_concrete_function(*specs)

    def _differentiate(self, *tensors: Any) -> tuple:
        count = len(self._graph.input_values)
        arrays, seeds, targets = tensors[:count], tensors[count], tensors[count + 1 :]
        by_value = dict(zip(self._graph.input_values, arrays, strict=True))
        inputs = tree.map_structure(by_value.__getitem__, self._graph.inputs)
        # Persistent, as it is asked twice: by the outputs and by the loss.
        with tf.GradientTape(persistent=True) as tape:
            # Without trainable weights nothing else would make the tape record.
            tape.watch([x for x in arrays if x.dtype.is_floating])
            results = self._model(inputs, training=False)
            outputs = tree.flatten(results["outputs"])
            projected = tf.add_n(list(map(_with_random_signs, outputs, tf.unstack(seeds))))
            loss = self._sum_of_losses(targets, outputs) if self._loss else None
        exits = results["exits"]
        output_gradients = tape.gradient(projected, exits, unconnected_gradients="zero")
        loss_gradients = (
            [] if loss is None else tape.gradient(loss, exits, unconnected_gradients="zero")
        )
        energy = tf.add_n([tf.reduce_sum(tf.square(tf.cast(y, tf.float32))) for y in outputs])
        return exits, output_gradients, loss_gradients, energy

    def _sum_of_losses(self, targets: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Returns the losses' sum over samples: each row's gradient is that of its own loss."""
        assert self._loss is not None
        if len(targets) != len(outputs):
            raise ValueError(
                f"`calibration` must have targets for all {len(outputs)} outputs. "
                f"Received: {len(targets)}"
            )
        samples = tf.cast(tf.shape(outputs[0])[0], tf.float32)
        losses = [self._loss(t, y) for t, y in zip(targets, outputs, strict=True)]
        return samples * tf.add_n([tf.reduce_mean(tf.cast(x, tf.float32)) for x in losses])


def _to_numpy(tensors: Sequence[Any]) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]


def _with_random_signs(tensor: Any, seed: Any) -> Any:
    """Returns v·y for a tensor y and signs v, which the seed alone decides; a float32 scalar."""
    draws = tf.random.stateless_uniform(tf.shape(tensor), [seed, 0])
    return tf.reduce_sum(tf.cast(tensor, tf.float32) * tf.where(draws < 0.5, -1.0, 1.0))
