"""Access to α and the state of its decay in a branched model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_branch_prune.common.arguments import number_up_to
from keras_branch_prune.layers.blend import Alpha


def alpha_layer(model: keras.Model) -> Alpha:
    """Returns the one `Alpha` layer of a branched model, or of a model that contains one.

    Args:
        model: A model made by `keras_branch_prune.branch`.

    Returns:
        The layer, whose variables hold α and all state of its decay.

    Raises:
        ValueError: If the model has no `Alpha` layer, or several.
    """
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
    return alpha_of(alpha_layer(model))


def find_alpha(model: keras.Model) -> float | None:
    """Returns α of a branched model, None of a model that has no `Alpha` layer."""
    branched = any(isinstance(layer, Alpha) for layer in flatten_layers(model))
    return get_alpha(model) if branched else None


def set_alpha(model: keras.Model, value: float) -> None:
    """Sets α of a branched model, e.g. in a custom training loop.

    The α callbacks forget the metric's best value and their waiting time, as after a step of their
    own. Their next step goes to the first value of their schedule below `value`.

    Args:
        model: A model made by `keras_branch_prune.branch`.
        value: The share of the original branch, in [0, 1].

    Raises:
        ValueError: If `value` is out of range or `model` is not a branched model.

    Example:
        >>> schedule = keras_branch_prune.CosineDecay(steps=20)
        >>> for epoch in range(30):
        ...     keras_branch_prune.set_alpha(branched, schedule(epoch))
        ...     train_one_epoch(branched)
    """
    layer = alpha_layer(model)
    layer.alpha.assign(number_up_to("value", value, at_most=1))
    layer.wait.assign(0)
    layer.best.assign(math.nan)


def flatten_layers(model: Any) -> Iterator[Any]:
    """Yields the layers of a model and of the models nested in it."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from flatten_layers(layer)


def value_of(variable: Any) -> float:
    """Returns the value of a scalar variable."""
    # As a tensor first: a variable mirrored on several devices is no number by itself.
    return float(ops.copy(variable))


def alpha_of(layer: Alpha) -> float:
    """Returns α as the shortest decimal that rounds to the stored float32."""
    # So that logs show 0.9 and not 0.8999999761581421.
    return float(str(np.float32(value_of(layer.alpha))))
