"""Training with a teacher, and with the original branches as teachers of the pruned ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_branch_prune.common import number_up_to, require_number
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
    """Trains a model on its task and, at the same time, towards the outputs of a teacher.

    The loss is `(1 − weight)·task + weight·distillation + matching·mismatch`, where

    * `task` is the compiled loss; what the model adds to it (regularization) counts in full;
    * `distillation` compares the outputs with those of the teacher: for class probabilities or
      logits `T²·KL(softmax(teacher/T) ‖ softmax(student/T))` (Hinton et al., 2015), for others the
      mean squared error; summed over the outputs, with the sample weights of the task;
    * `mismatch` is the mean, over all blends of a branched model, of `|o − p|² / |o|²` between the
      original branch's tensor o, which is taken as constant, and the pruned branch's p. It is not
      applied at α = 0, where the original branch is dead, and in evaluation it is only logged.

    The logs hold `task_loss` (with what the model adds to it), `distillation_loss`,
    `matching_loss` and their sum as `loss`.

    The teacher runs in inference mode and is never trained. It is no part of this model: neither
    its variables nor its weights, so that `save_weights` and `EpochBackup` save the trained model
    only. Save `distiller.model`, not the distiller.

    Args:
        model: The model to train, functional or Sequential; branched or not.
        teacher: A model with the inputs and outputs of `model`, such as the original before
            `branch`; None for matching only.
        weight: Share of the distillation loss, in [0, 1]; not used without a teacher. With 1,
            `compile` needs no loss and `fit` no labels.
        temperature: T, greater than 0.
        loss: How outputs are compared, for all of them, or in a list or dict one for each: "kl"
            (one distribution along the last axis), "binary" (independent probabilities), "mse", or
            a Keras loss; "auto" tells from the output's activation (softmax, sigmoid) or from the
            compiled loss (a cross-entropy with `from_logits`).
        loss_weights: Weights of the outputs' distillation losses, one for all, or a list or dict.
        matching: Weight of the mismatch of the branches, at least 0; 0 switches it off.
        **kwargs: Arguments of `keras.Model`, such as `name`.

    Raises:
        ValueError: If an argument is out of range, or the outputs of the teacher have another
            structure or shape than those of the model, or `matching` is asked of a model without
            blends.

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
        _check_models(model, teacher)
        # The model casts its inputs itself; to cast them here would lose bits of the float32 part.
        super().__init__(dtype=model.dtype_policy, autocast=False, **kwargs)
        self.model = model
        self._weight = number_up_to("weight", weight, at_most=1) if teacher is not None else 0.0
        self._matching = number_up_to("matching", matching, at_most=math.inf)
        # Held by plain objects, so that Keras finds neither the teacher nor metrics to save.
        self._teacher = None
        if teacher is not None:
            self._teacher = _Teacher(model, teacher, _temperature(temperature), loss, loss_weights)
        self._branches = _Branches(model) if self._matching else None
        if self._teacher is None and self._branches is None:
            raise ValueError(
                "`teacher` must be a model if `matching` is 0. Received: teacher=None, matching=0"
            )
        self._logged = _Logged(self._teacher is not None, self._branches is not None)
        self.supports_jit = model.supports_jit
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Returns the outputs of the model."""
        if self._branches is None:
            return self.model(inputs, training=training)
        return self._branches.outputs(inputs, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the total loss and logs its terms; the arguments are those of `keras.Model`."""
        added = sum((ops.sum(ops.cast(loss, "float32")) for loss in self.losses), ops.zeros(()))
        terms = {}
        if self.loss is not None:
            terms["task_loss"] = super().compute_loss(x, y, y_pred, sample_weight, training)
        else:
            terms["task_loss"] = added
        total = terms["task_loss"]
        if self._teacher is not None:
            terms["distillation_loss"] = self._teacher.loss(x, y_pred, sample_weight, self.loss)
            distilled = terms["distillation_loss"] + added
            total = (1 - self._weight) * total + self._weight * distilled
        if self._branches is not None:
            terms["matching_loss"] = self._branches.mismatch()
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


class _Logged:
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
        self._kinds = [_loss_kind(kind) for kind in per_output("loss", loss, self._names)]
        weights = per_output("loss_weights", loss_weights, self._names)
        self._weights = [
            1.0 if weight is None else number_up_to("loss_weights", weight, at_most=math.inf)
            for weight in weights
        ]
        self._losses(None)

    def _losses(self, compiled: Any) -> list[keras.losses.Loss]:
        """Returns one loss per output; `compiled` is what the model is compiled with."""
        try:
            per = per_output("loss", compiled, self._names)
        except ValueError:
            per = [None] * len(self._names)
        return [
            make_loss(kind, self._temperature, activations, own)
            for kind, activations, own in zip(self._kinds, self._activations, per, strict=True)
        ]

    def loss(self, x: Any, y_pred: Any, sample_weight: Any, compiled: Any) -> Any:
        """Returns the weighted sum of the losses of all outputs on a batch."""
        targets = [ops.stop_gradient(tensor) for tensor in tree.flatten(self._call(x))]
        rows = zip(
            self._weights,
            self._losses(compiled),
            targets,
            tree.flatten(y_pred),
            self._sample_weights(sample_weight),
            strict=True,
        )
        total = ops.zeros(())
        for weight, loss, target, output, weights in rows:
            total = total + weight * loss(target, output, sample_weight=weights)
        return total

    def _sample_weights(self, value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [value.get(name) for name in self._names]
        return per_output("sample_weight", value, self._names)


class _Branches:
    """The tensors of both branches at all blends, from the pass that computes the outputs."""

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

    def outputs(self, inputs: Any, training: bool) -> Any:
        """Returns the outputs of the model and keeps the tensors at the blends."""
        results = self._model(inputs, training=training)
        self._blends = results["blends"]
        return results["outputs"]

    def mismatch(self) -> Any:
        """Returns the mean of `|o − p|² / |o|²` over the blends of the last call, 0 at α = 0."""
        blends, self._blends = self._blends, ()
        alpha = blends[0][0]

        def mean() -> Any:
            ratios = [_relative_square(original, pruned) for _, original, pruned in blends]
            return sum(ratios[1:], ratios[0]) / len(ratios)

        # A product would not do: a diverged original branch would make it NaN.
        return ops.cond(alpha > 0, mean, lambda: ops.zeros(()))


def _relative_square(original: Any, pruned: Any) -> Any:
    original = ops.stop_gradient(ops.cast(original, "float32"))
    error = ops.mean(ops.square(original - ops.cast(pruned, "float32")))
    return error / (ops.mean(ops.square(original)) + _EPSILON)


def _check_models(model: Any, teacher: Any) -> None:
    if not isinstance(model, keras.Model) or getattr(model, "outputs", None) is None:
        raise ValueError(
            f"`model` must be a built functional or Sequential model. Received: {model!r}"
        )
    if teacher is not None and (not isinstance(teacher, keras.Model) or teacher is model):
        raise ValueError(f"`teacher` must be another Keras model or None. Received: {teacher!r}")


def _check_outputs(outputs: Any, taught: Any) -> None:
    def shapes(structure: Any) -> Any:
        return tree.map_structure(lambda tensor: str(tuple(tensor.shape)), structure)

    if shapes(outputs) != shapes(taught):
        raise ValueError(
            "`teacher` must have outputs of the structure and shapes of the model's, "
            f"{shapes(outputs)}. Received: {shapes(taught)}"
        )


def _temperature(value: Any) -> float:
    return require_number(
        "temperature", value, lambda x: 0 < x < math.inf, "a number greater than 0"
    )


def _loss_kind(kind: Any) -> Any:
    if not callable(kind) and not isinstance(kind, str):
        raise ValueError(
            f"`loss` must be one of {KINDS} or a Keras loss, or one per output. Received: {kind!r}"
        )
    return kind
