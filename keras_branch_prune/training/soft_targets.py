"""Losses between the outputs of a teacher and a student, one per output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_branch_prune.common import operation_of, output_index

KINDS = ("auto", "kl", "binary", "mse")
"""Names of distillation losses beside those that Keras knows."""

_ACTIVATIONS = {"kl": "softmax", "binary": "sigmoid"}
_SMALLEST = 1e-30


class SoftTargets(keras.losses.Loss):
    """`T²·KL(softmax(teacher/T) ‖ softmax(student/T))` of the logits of two outputs.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015. The factor T²
    keeps the size of the gradients, which the division by T makes T² times smaller. The last axis
    holds the classes. With `binary`, every element is the logit of a distribution of its own (a
    sigmoid), and the mean of the divergences is taken.

    Args:
        temperature: T, greater than 0.
        binary: Whether the outputs are independent probabilities instead of one distribution.
        activations: What has been applied to the teacher's and the student's logits already:
            `"softmax"`, `"sigmoid"` or, for outputs that are logits, `None`.
    """

    def __init__(
        self, temperature: float, binary: bool, activations: tuple[str | None, str | None]
    ):
        super().__init__(name="soft_targets")
        self._temperature = temperature
        self._divergence = _binary_kl_divergence if binary else _kl_divergence
        self._activations = activations

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of outputs `(batch, …, classes)` as `(batch, …)`."""
        teacher, student = (
            _logits(outputs, activation) / self._temperature
            for outputs, activation in zip((y_true, y_pred), self._activations, strict=True)
        )
        return self._temperature**2 * self._divergence(teacher, student)


class _FunctionLoss(keras.losses.Loss):
    """A function of targets and outputs as a loss."""

    def __init__(self, function: Callable[[Any, Any], Any]):
        super().__init__(name="distillation")
        self._function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._function(y_true, y_pred)


def _logits(outputs: Any, activation: str | None) -> Any:
    if activation == "softmax":
        # The logits but for a constant, which a softmax cancels.
        return ops.log(ops.maximum(outputs, _SMALLEST))
    if activation == "sigmoid":
        # The largest float32 below 1, whose logit is finite.
        below_one = 1 - float(np.finfo(np.float32).epsneg)
        outputs = ops.clip(outputs, _SMALLEST, below_one)
        return ops.log(outputs) - ops.log1p(-outputs)
    return outputs


def _kl_divergence(teacher: Any, student: Any) -> Any:
    teacher, student = ops.log_softmax(teacher), ops.log_softmax(student)
    return ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)


def _binary_kl_divergence(teacher: Any, student: Any) -> Any:
    terms = [
        ops.sigmoid(sign * teacher)
        * (ops.log_sigmoid(sign * teacher) - ops.log_sigmoid(sign * student))
        for sign in (1, -1)
    ]
    return ops.mean(terms[0] + terms[1], axis=-1)


def inputs_and_outputs(model: keras.Model) -> tuple[Any, Any]:
    """Returns the symbolic inputs and outputs of a functional or Sequential model, in structure."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def output_names(model: keras.Model) -> list[str]:
    """Returns the names of a model's outputs, flat: keys where the outputs are a dict."""
    outputs = inputs_and_outputs(model)[1]
    if isinstance(outputs, dict):
        return tree.flatten({key: key for key in outputs})
    return list(model.output_names) if hasattr(model, "output_names") else ["output"]


def activation_of(tensor: Any) -> str | None:
    """Returns `"softmax"` (along the last axis) or `"sigmoid"` if a symbolic output comes from it.

    Both an activation inside a layer and a layer or operation of that name count; for any other
    output it is `None`, which says nothing about whether they are logits.
    """
    operation = operation_of(tensor)
    if operation is None:
        return None
    if isinstance(operation, keras.Model):
        outputs = tree.flatten(inputs_and_outputs(operation)[1])
        return activation_of(outputs[output_index(tensor)])
    activation = getattr(operation, "activation", None)
    name = getattr(activation, "__name__", None) or type(operation).__name__.lower()
    # A softmax along another axis is no distribution over the classes.
    last = getattr(operation, "axis", -1) in (-1, len(tensor.shape) - 1)
    return name if name == "sigmoid" or (name == "softmax" and last) else None


def per_output(name: str, value: Any, names: Sequence[str]) -> list[Any]:
    """Returns one value per output.

    Args:
        name: Name of the argument, for the message.
        value: One for all outputs, or a list in their order, or a dict by their names.
        names: The names of the outputs, flat.

    Raises:
        ValueError: If the list or dict does not fit the outputs.
    """
    if isinstance(value, dict):
        if set(value) == set(names):
            return [value[key] for key in names]
    elif not isinstance(value, (list, tuple)):
        return [value] * len(names)
    elif len(value) == len(names):
        return list(value)
    raise ValueError(f"`{name}` must have one value per output {list(names)}. Received: {value!r}")


def make_loss(
    kind: Any, temperature: float, activations: tuple[str | None, str | None], compiled: Any
) -> keras.losses.Loss:
    """Returns the distillation loss of one output.

    Args:
        kind: One of `KINDS`, or a Keras loss, its name, or a function.
        temperature: T of soft targets.
        activations: What made the teacher's and the student's output, see `activation_of`.
        compiled: The loss that the student is compiled with, from which "auto" tells whether an
            output without activation is logits.
    """
    if kind == "auto":
        kind = _infer_kind(activations[1], compiled)
    if kind == "mse":
        return keras.losses.MeanSquaredError()
    if kind in _ACTIVATIONS:
        if not {*activations} <= {None, _ACTIVATIONS[kind]}:
            raise ValueError(
                f"`loss` {kind!r} must be of outputs that are logits or {_ACTIVATIONS[kind]} "
                f"probabilities. Received: outputs of {activations}"
            )
        return SoftTargets(temperature, kind == "binary", activations)
    loss = keras.losses.get(kind)
    return loss if isinstance(loss, keras.losses.Loss) else _FunctionLoss(loss)


def _infer_kind(activation: str | None, compiled: Any) -> str:
    for kind, name in _ACTIVATIONS.items():
        if activation == name:
            return kind
    config = compiled.get_config() if isinstance(compiled, keras.losses.Loss) else {}
    if not config.get("from_logits"):
        return "mse"
    return "binary" if "Binary" in type(compiled).__name__ else "kl"
