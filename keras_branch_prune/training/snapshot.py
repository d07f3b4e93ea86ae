"""Copies the state of a compiled model and puts it back."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Copies of all variables of a model and of its optimizers, made by `take_snapshot`.

    Args:
        variables: Values of `model.variables`: weights, the state of α, statistics, random seeds.
        optimizers: By name of the model's attribute, such as `"optimizer"`, the values of that
            optimizer's variables: moments, iterations, learning rate.
    """

    variables: tuple[np.ndarray, ...]
    optimizers: Mapping[str, tuple[np.ndarray, ...]]

    def restore(self, model: keras.Model) -> None:
        """Puts a model into this state, even in the middle of `fit`; nothing is traced again.

        Args:
            model: A compiled model of the same structure as the one the snapshot was taken of.

        Raises:
            ValueError: If the model is not compiled, or its structure differs; it stays as it was.
        """
        # All pairs are checked before the first variable is set.
        build_optimizer(model)
        pairs = _pair("variables", model.variables, self.variables)
        for name, values in self.optimizers.items():
            pairs += _pair(f"{name}.variables", getattr(model, name).variables, values)
        for variable, value in pairs:
            variable.assign(value)

    def get_state(self) -> dict[str, Any]:
        """Returns the snapshot as a dict of lists of arrays."""
        optimizers = {name: list(values) for name, values in self.optimizers.items()}
        return {"variables": list(self.variables), "optimizers": optimizers}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Snapshot:
        """Returns the snapshot that `get_state` describes."""
        optimizers = {name: tuple(values) for name, values in state["optimizers"].items()}
        return cls(tuple(state["variables"]), optimizers)


def take_snapshot(model: keras.Model) -> Snapshot:
    """Copies the state of a compiled model to the host's memory.

    Args:
        model: A built and compiled model. Its optimizer is built if it is not. A model with its own
            `train_step` may hold further optimizers as attributes: they are copied too, unless
            they are not built, as only the model knows for which variables.

    Returns:
        The snapshot. It takes as much memory as the weights and the optimizers together.

    Raises:
        ValueError: If the model is not compiled.

    Example:
        >>> from keras_branch_prune.training import take_snapshot
        >>> good = take_snapshot(branched)
        >>> history = branched.fit(images, labels, verbose=0)
        >>> good.restore(branched)
    """
    build_optimizer(model)
    optimizers = {name: _copy(found.variables) for name, found in _optimizers(model).items()}
    return Snapshot(_copy(model.variables), optimizers)


def build_optimizer(model: keras.Model) -> None:
    """Creates the optimizer's variables if they are missing, as `fit` does in its first batch.

    Args:
        model: A compiled model.

    Raises:
        ValueError: If the model is not compiled.
    """
    require_compiled(model)
    if model.optimizer.built:
        return
    # TensorFlow refuses optimizer variables made outside the strategy of the model's variables.
    strategy = getattr(model, "distribute_strategy", None)
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        model.optimizer.build(model.trainable_variables)


def require_compiled(model: keras.Model) -> None:
    """Raises `ValueError` if a model is not compiled."""
    if not model.compiled:
        raise ValueError(f"`model` must be compiled. Received: '{model.name}', not compiled")


def _optimizers(model: keras.Model) -> dict[str, keras.optimizers.Optimizer]:
    """Returns the built optimizers of a model by the names of its attributes."""
    found = {"optimizer": model.optimizer, **vars(model)}
    kind = keras.optimizers.Optimizer
    return {name: value for name, value in found.items() if isinstance(value, kind) and value.built}


def _copy(variables: Sequence[Any]) -> tuple[np.ndarray, ...]:
    # `np.array` copies: what `convert_to_numpy` returns may be the variable's own memory.
    return tuple(np.array(ops.convert_to_numpy(variable)) for variable in variables)


def _pair(
    what: str, variables: Sequence[Any], values: Sequence[np.ndarray]
) -> list[tuple[Any, np.ndarray]]:
    """Pairs variables with their values, or raises `ValueError` where they do not fit."""
    if len(variables) != len(values):
        raise ValueError(
            f"`model.{what}` must be the {len(values)} variables that the snapshot was taken of. "
            f"Received: {len(variables)} variables"
        )
    for variable, value in zip(variables, values, strict=True):
        actual, expected = _describe(variable), _describe(value)
        if actual != expected:
            raise ValueError(
                f"`model.{what}` must be as they were when the snapshot was taken. "
                f"Received: '{variable.path}' of {actual}, taken as {expected}"
            )
    return list(zip(variables, values, strict=True))


def _describe(array: Any) -> str:
    return f"shape {tuple(array.shape)} and {keras.backend.standardize_dtype(array.dtype)}"
