"""Trains a model with a teacher, and pruned branches with their original ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_branch_prune.common import require, require_number_up_to, require_positive
from keras_branch_prune.layers import AlphaBlend
from keras_branch_prune.training.soft_targets import (
    KINDS,
    activation_of,
    inputs_and_outputs,
    make_loss,
    output_names,
    per_output,
)

_EPSILON = 1e-7


class Distiller(keras.Model):
    """Trains a model on its task and, at the same time, to give the outputs of a teacher.

    The loss is `(1 − weight)·task + weight·distillation + matching·mismatch`, where

    * `task` is the compiled loss; what the model adds to it (regularization) counts in full;
    * `distillation` compares the outputs with those of the teacher: for class probabilities or
      logits `T²·KL(softmax(teacher/T) ‖ softmax(student/T))` (Hinton et al., 2015), for others the
      mean squared error; summed over the outputs, with the sample weights of the task;
    * `mismatch` is the mean, over all blends of a branched model, of `|o − p|² / |o|²` between the
      original branch's tensor o, taken as constant, and the pruned branch's p. At α = 0, where the
      original branch no longer counts, it is 0; in evaluation it is logged and not part of `loss`.

    The logs hold `task_loss` (with what the model adds to it), `distillation_loss`,
    `matching_loss` (the mismatch) and the whole as `loss`.

    The teacher runs in inference mode and is never trained. Its weights are not among those of the
    distiller, so that `save_weights` and `EpochBackup` save the trained model only. Save
    `distiller.model`, not the distiller.

    Args:
        model: The model to train, functional or Sequential; branched or not.
        teacher: A model with the inputs and outputs of `model`, such as the one that was given to
            `branch`; None for matching only.
        weight: Share of the distillation loss, in [0, 1]; not used without a teacher. With 1,
            `compile` needs no loss and `fit` no labels.
        temperature: T, greater than 0.
        loss: How outputs are compared: "kl" (one distribution along the last axis), "binary"
            (independent probabilities), "mse", or a Keras loss; "auto" decides by the output's
            activation (softmax, sigmoid) or the compiled loss (a cross-entropy with `from_logits`),
            and is "mse" otherwise. One for all outputs, or a list or dict with one for each.
        loss_weights: Weights of the outputs' distillation losses, one for all, or a list or dict.
        matching: Weight of the mismatch of the branches, at least 0; 0 switches it off.
        **kwargs: Arguments of `keras.Model`, such as `name`.

    Raises:
        ValueError: If an argument is out of range, the outputs of the teacher have another
            structure or shape than those of the model, or `matching` is above 0 and the model has
            no blends.

    Example:
        >>> distiller = kbp.Distiller(branched, teacher=model, weight=0.5)
        >>> distiller.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> distiller.fit(train, epochs=12, callbacks=[kbp.AlphaStepDecay(0.1)])
        >>> compact = kbp.merge(distiller.model)
    """

    def __init__(
        self,
        model: keras.Model,
        teacher: keras.Model | None = None,
        *,
        weight: float = 0.5,
        temperature: float = 4.0,
        loss: Any = "auto",
        loss_weights: Any = None,
        matching: float = 0.0,
        **kwargs: Any,
    ):
        _check_student_and_teacher(model, teacher)
        # The model casts its inputs itself: cast here, float32 layers would read rounded ones.
        super().__init__(dtype=model.dtype_policy, autocast=False, **kwargs)
        self.model = model
        weight = require_number_up_to("weight", weight, at_most=1)
        temperature = require_positive("temperature", temperature)
        self._weight = weight if teacher is not None else 0.0
        self._matching = require_number_up_to("matching", matching, at_most=math.inf)
        # Held by plain objects, in which Keras does not look for layers and metrics to save.
        self._teacher = None
        if teacher is not None:
            self._teacher = _Teacher(model, teacher, temperature, loss, loss_weights)
        self._branches = _Branches(model) if self._matching else None
        if self._teacher is None and self._branches is None:
            raise ValueError(
                "`teacher` must be a model if `matching` is 0. Received: teacher=None, matching=0"
            )
        self._logged = _TermMeans(self._teacher is not None, self._branches is not None)
        self.supports_jit = model.supports_jit
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Returns the outputs of the model."""
        if self._branches is None:
            return self.model(inputs, training=training)
        return self._branches.compute_outputs(inputs, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the total loss and logs its terms; the arguments are those of `keras.Model`."""
        # The task's loss contains these already; with `compile(loss=None)` they are all there is.
        added = sum((ops.sum(ops.cast(loss, "float32")) for loss in self.losses), ops.zeros(()))
        terms = {}
        if self.loss is not None:
            terms["task_loss"] = super().compute_loss(x, y, y_pred, sample_weight, training)
        else:
            terms["task_loss"] = added
        total = terms["task_loss"]
        if self._teacher is not None:
            terms["distillation_loss"] = self._teacher.compute_loss(
                x, y_pred, sample_weight, self.loss
            )
            # Added to both parts, whose shares sum to 1: regularization counts in full.
            distilled = terms["distillation_loss"] + added
            total = (1 - self._weight) * total + self._weight * distilled
        if self._branches is not None:
            terms["matching_loss"] = self._branches.compute_mismatch()
            if training:
                total = total + self._matching * terms["matching_loss"]
        self._logged.update(terms, ops.shape(tree.flatten(y_pred)[0])[0])
        return total

    @property
    def metrics(self) -> list[Any]:
        """The metrics of the logs."""
        return [*super().metrics, *self._logged.trackers.values()]

    def get_config(self) -> dict[str, Any]:
        """Raises `NotImplementedError`: the teacher would be saved, too."""
        raise NotImplementedError(
            "A Distiller cannot be saved as a whole; save `distiller.model`, or the weights by "
            "`distiller.save_weights`."
        )


class _TermMeans:
    """Means of the terms of the loss over the batches of an epoch."""

    def __init__(self, distillation: bool, matching: bool):
        names = ["task_loss", *["distillation_loss"] * distillation, *["matching_loss"] * matching]
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}

    def update(self, terms: dict[str, Any], batch_size: Any) -> None:
        for name, value in terms.items():
            self.trackers[name].update_state(value, sample_weight=batch_size)


class _Teacher:
    """A teacher and the losses between its outputs and the model's."""

    def __init__(
        self,
        model: keras.Model,
        teacher: keras.Model,
        temperature: float,
        loss: Any,
        loss_weights: Any,
    ):
        inputs, outputs = inputs_and_outputs(model)
        taught = teacher.compute_output_spec(inputs)
        _check_outputs(outputs, taught)
        functional = getattr(teacher, "outputs", None) is not None
        source = inputs_and_outputs(teacher)[1] if functional else outputs
        self._call = functools.partial(teacher, training=False)
        self._names = output_names(model)
        self._activations = [
            (activation_of(theirs), activation_of(ours))
            for theirs, ours in zip(tree.flatten(source), tree.flatten(outputs), strict=True)
        ]
        self._temperature = temperature
        self._kinds = [_require_loss_kind(kind) for kind in per_output("loss", loss, self._names)]
        weights = per_output("loss_weights", loss_weights, self._names)
        self._weights = [
            1.0
            if weight is None
            else require_number_up_to("loss_weights", weight, at_most=math.inf)
            for weight in weights
        ]
        # Made here only to check the arguments; the compiled loss is not known before `fit`.
        self._make_losses(None)

    def _make_losses(self, compiled: Any) -> list[keras.losses.Loss]:
        """Returns one loss per output; `compiled` is what the model is compiled with."""
        # A compiled loss in a form that is not understood says nothing about "auto".
        try:
            per = per_output("loss", compiled, self._names)
        except ValueError:
            per = [None] * len(self._names)
        return [
            make_loss(kind, self._temperature, activations, own)
            for kind, activations, own in zip(self._kinds, self._activations, per, strict=True)
        ]

    def compute_loss(self, x: Any, y_pred: Any, sample_weight: Any, compiled: Any) -> Any:
        """Returns the weighted sum of the losses of all outputs on a batch."""
        targets = [ops.stop_gradient(tensor) for tensor in tree.flatten(self._call(x))]
        rows = zip(
            self._weights,
            self._make_losses(compiled),
            targets,
            tree.flatten(y_pred),
            self._weights_per_output(sample_weight),
            strict=True,
        )
        total = ops.zeros(())
        for weight, loss, target, output, weights in rows:
            total = total + weight * loss(target, output, sample_weight=weights)
        return total

    def _weights_per_output(self, value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [value.get(name) for name in self._names]
        return per_output("sample_weight", value, self._names)


class _Branches:
    """Computes a model's outputs, and from the same pass the mismatch of the branches."""

    def __init__(self, model: keras.Model):
        blends = [layer.input for layer in model.layers if isinstance(layer, AlphaBlend)]
        if not blends:
            raise ValueError(
                "`model` must be a branched model for `matching`. "
                f"Received: model {model.name!r} without blends"
            )
        inputs, outputs = inputs_and_outputs(model)
        self._model = keras.Model(inputs, {"outputs": outputs, "blends": blends})
        self._blends: Sequence[Any] = ()

    def compute_outputs(self, inputs: Any, training: bool) -> Any:
        """Returns the outputs of the model; the tensors at the blends are kept for the mismatch."""
        results = self._model(inputs, training=training)
        self._blends = results["blends"]
        return results["outputs"]

    def compute_mismatch(self) -> Any:
        """Returns the mean of `|o − p|² / |o|²` over the blends of the last call, 0 at α = 0."""
        # Forgotten at once: tensors of a traced function must not be used in another one.
        blends, self._blends = self._blends, ()
        alpha = blends[0][0]

        def mean() -> Any:
            ratios = [_relative_square(original, pruned) for _, original, pruned in blends]
            return sum(ratios[1:], ratios[0]) / len(ratios)

        # Not a product with (α > 0): NaN of a diverged original branch times 0 is NaN.
        return ops.cond(alpha > 0, mean, lambda: ops.zeros(()))


def _relative_square(original: Any, pruned: Any) -> Any:
    original = ops.stop_gradient(ops.cast(original, "float32"))
    error = ops.mean(ops.square(original - ops.cast(pruned, "float32")))
    return error / (ops.mean(ops.square(original)) + _EPSILON)


def _check_student_and_teacher(model: Any, teacher: Any) -> None:
    built = isinstance(model, keras.Model) and getattr(model, "outputs", None) is not None
    require(built, "model", model, "a built functional or Sequential model")
    other = teacher is None or (isinstance(teacher, keras.Model) and teacher is not model)
    require(other, "teacher", teacher, "another Keras model or None")


def _check_outputs(outputs: Any, taught: Any) -> None:
    def shapes(structure: Any) -> Any:
        return tree.map_structure(lambda tensor: str(tuple(tensor.shape)), structure)

    if shapes(outputs) != shapes(taught):
        raise ValueError(
            "`teacher` must have outputs of the structure and shapes of the model's, "
            f"{shapes(outputs)}. Received: {shapes(taught)}"
        )


def _require_loss_kind(kind: Any) -> Any:
    valid = callable(kind) or isinstance(kind, str)
    require(valid, "loss", kind, f"one of {KINDS} or a Keras loss, or one per output")
    return kind
