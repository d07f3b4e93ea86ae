"""The layer that owns α and the state of its decay, and functions that read and set α."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_branch_prune.common import require_number_up_to
from keras_branch_prune.layers.names import PACKAGE


def alpha_layer(model: keras.Model) -> Alpha:
    """Returns the one `Alpha` layer of a branched model, or of a model that contains one.

    Args:
        model: A model made by `keras_branch_prune.branch`.

    Returns:
        The layer, whose variables hold α and all state of its decay.

    Raises:
        ValueError: If the model has no `Alpha` layer, or several.
    """
    # By identity, as a layer that two nested models share is listed twice.
    found = {id(layer): layer for layer in flatten_layers(model) if isinstance(layer, Alpha)}
    if not found:
        raise ValueError(
            f"Model {model.name!r} is not a branched model; call keras_branch_prune.branch first."
        )
    if len(found) > 1:
        names = [layer.name for layer in found.values()]
        raise ValueError(
            "`model` must contain exactly one `Alpha` layer. "
            f"Received: model {model.name!r} with the `Alpha` layers {names}"
        )
    return next(iter(found.values()))


def get_alpha(model: keras.Model) -> float:
    """Returns α of a branched model, in [0, 1].

    Args:
        model: A model made by `keras_branch_prune.branch`.

    Returns:
        The share of the original branch: the shortest decimal that rounds to the stored float32.

    Raises:
        ValueError: If `model` is not a branched model.
    """
    return read_alpha(alpha_layer(model))


def find_alpha(model: keras.Model) -> float | None:
    """Returns α of a branched model, or None if the model has no `Alpha` layer."""
    branched = any(isinstance(layer, Alpha) for layer in flatten_layers(model))
    return get_alpha(model) if branched else None


def set_alpha(model: keras.Model, value: float) -> None:
    """Sets α of a branched model, e.g. in a custom training loop.

    An α callback goes on from there: its next step is to the first value of its schedule below
    `value`. It forgets the metric's best value and its waiting time, as after a step of its own.

    Args:
        model: A model made by `keras_branch_prune.branch`.
        value: The share of the original branch, in [0, 1].

    Raises:
        ValueError: If `value` is out of range or `model` is not a branched model.

    Example:
        >>> schedule = kbp.CosineDecay(steps=20)
        >>> for epoch in range(30):
        ...     kbp.set_alpha(branched, schedule(epoch))
        ...     train_one_epoch(branched)
    """
    layer = alpha_layer(model)
    layer.alpha.assign(require_number_up_to("value", value, at_most=1))
    layer.wait.assign(0)
    # A value that was reached at another α is nothing to compare with.
    layer.best.assign(math.nan)


def flatten_layers(model: Any) -> Iterator[Any]:
    """Yields the layers of a model and of the models nested in it, each model before its layers."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from flatten_layers(layer)


def read_scalar(variable: Any) -> float:
    """Returns the value of a scalar variable."""
    # As a tensor first: a variable mirrored on several devices is no number by itself.
    return float(ops.copy(variable))


def read_alpha(layer: Alpha) -> float:
    """Returns α as the shortest decimal that rounds to the stored float32."""
    # So that logs show 0.9 and not 0.8999999761581421.
    return float(str(np.float32(read_scalar(layer.alpha))))


@keras.saving.register_keras_serializable(package=PACKAGE)
class Alpha(keras.layers.Layer):
    """Owns α and all state of its decay, and emits α as a scalar to every blend of the model.

    The state lives in non-trainable variables, so that whatever saves the model's weights
    (`model.save`, `EpochBackup`, `keras.callbacks.BackupAndRestore`) saves it too:

    * `alpha`: the current share of the original branch, float32 in [0, 1];
    * `step`: number of decay steps taken, int32;
    * `wait`: epochs or batches since the last step or the last improvement, int32;
    * `best`: best value of the monitored metric at this α, float32 (NaN: none seen yet).

    Args:
        frozen: Names of the layers that `branch` has made untrainable; `merge` undoes that.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, frozen: Sequence[str] = (), **kwargs: Any):
        # In bfloat16 1 − 0.999 would be 0.
        kwargs.setdefault("dtype", "float32")
        super().__init__(autocast=False, **kwargs)
        self.frozen = tuple(frozen)

    def build(self, input_shape: Any) -> None:
        """Creates the state variables; `input_shape` is not used."""
        self.alpha = self._add_state("alpha", "ones", "float32")
        self.step = self._add_state("step", "zeros", "int32")
        self.wait = self._add_state("wait", "zeros", "int32")
        self.best = self._add_state("best", keras.initializers.Constant(float("nan")), "float32")

    def _add_state(self, name: str, initializer: Any, dtype: str) -> Any:
        return self.add_weight(
            shape=(),
            initializer=initializer,
            dtype=dtype,
            trainable=False,
            autocast=False,
            name=name,
            # All replicas hold the same state: the mean or sum of an update would be another one.
            aggregation="only_first_replica",
        )

    def call(self, inputs: Any) -> Any:
        """Returns α as a float32 scalar; `inputs` only connects the layer to the graph."""
        # The variable is read in every step: an assignment takes effect without tracing again.
        return ops.convert_to_tensor(self.alpha)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Returns the spec of a float32 scalar."""
        return keras.KerasTensor((), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the config of the layer."""
        return {**super().get_config(), "frozen": list(self.frozen)}
