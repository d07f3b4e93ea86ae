"""Learning rates of their own for the factors whose product the merge takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_branch_prune.common import number_up_to
from keras_branch_prune.layers import PACKAGE, is_inside_narrow, is_map_weight, share_of


@keras.saving.register_keras_serializable(package=PACKAGE)
class ScaledRates(keras.optimizers.Optimizer):
    """Scales what an optimizer does to the original layers, the maps and the narrow layers.

    At α = 0 the layers of a branched model act as products R·W·E, which are stiffer than the merged
    layers: the rate that suits one factor may be too large for another. Every update of a variable
    is multiplied by the factor of its kind, after the inner optimizer has made it, which for a
    constant factor is the same as to multiply the learning rate; weight decay is scaled with it. A
    factor of 0 freezes the variables.

    The factors are the variables `original`, `maps` and `pruned`: `optimizer.original.assign(0)`
    takes effect at once, without retracing, and is saved with the optimizer's state. For the time
    of an update there is a copy of all weights.

    Args:
        inner_optimizer: The `keras.optimizers.Optimizer` to wrap. Its learning rate is also that of
            this optimizer, for callbacks such as `keras.callbacks.ReduceLROnPlateau`.
        original: Factor of the layers of the original model, at least 0.
        maps: Factor of the maps that reduce and expand, at least 0.
        pruned: Factor of the narrow layers between them, at least 0.
        name: Name of the optimizer.

    Raises:
        ValueError: If `inner_optimizer` is not an optimizer, or averages the weights (`use_ema`),
            or a factor is out of range.

    Example:
        >>> optimizer = kbp.ScaledRates(keras.optimizers.Adam(1e-3), original=0.1)
        >>> branched.compile(optimizer, "sparse_categorical_crossentropy")
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        *,
        original: float = 1.0,
        maps: float = 1.0,
        pruned: float = 1.0,
        name: str | None = None,
    ):
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                "`inner_optimizer` must be a keras.optimizers.Optimizer. "
                f"Received: inner_optimizer={inner_optimizer!r}"
            )
        if inner_optimizer.use_ema:
            raise ValueError(
                "`inner_optimizer` must not average the weights, because it would average them "
                "before their updates are scaled. Received: use_ema=True"
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.original = self._factor("original", original)
        self.maps = self._factor("maps", maps)
        self.pruned = self._factor("pruned", pruned)

    def _factor(self, name: str, value: float) -> Any:
        value = number_up_to(name, value, at_most=math.inf)
        initializer = keras.initializers.Constant(value)
        return self.add_variable(
            (), initializer, "float32", aggregation="only_first_replica", name=name
        )

    def build(self, variables: Sequence[Any]) -> None:
        """Builds the inner optimizer for these variables."""
        variables = list(variables)
        self.inner_optimizer.build(variables)
        super().build(variables)

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Lets the inner optimizer update the variables, then scales the updates.

        Args:
            grads: One gradient per variable; `None` leaves the variable alone.
            trainable_variables: The variables; `None` for those that the optimizer was built with.
        """
        if not self.built and trainable_variables is not None:
            self.build(trainable_variables)
        variables = list(trainable_variables or self._trainable_variables)
        before = [ops.copy(variable) for variable in variables]
        self.inner_optimizer.apply(grads, variables)
        for variable, old in zip(variables, before, strict=True):
            self._scale_update(variable, old)

    def _scale_update(self, variable: Any, old: Any) -> None:
        factor = ops.cast(self.factor_of(variable), variable.dtype)
        new = ops.convert_to_tensor(variable)
        # `old + (new − old)` would not be `new` to the last bit.
        scaled = ops.where(factor == 1, new, old + share_of(new - old, factor))
        # Constraints need not be convex: the unit sphere is not.
        constraint = variable.constraint
        self.assign(variable, scaled if constraint is None else constraint(scaled))

    def factor_of(self, variable: Any) -> Any:
        """Returns the factor of a variable: `self.original`, `self.maps` or `self.pruned`."""
        if is_map_weight(variable):
            return self.maps
        return self.pruned if is_inside_narrow(variable.path) else self.original

    @property
    def variables(self) -> list[Any]:
        """The variables of this optimizer and of the inner one."""
        return self._variables + self.inner_optimizer.variables

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the inner optimizer, which can be set."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> Any:
        """The number of updates that the inner optimizer has made."""
        return self.inner_optimizer.iterations

    def scale_loss(self, loss: Any) -> Any:
        """Scales a loss as the inner optimizer does."""
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Lets the inner optimizer set the final values of the variables."""
        self.inner_optimizer.finalize_variable_values(var_list)

    # Keras saves the inner optimizer on its own: its variables must not be stored twice.

    def save_own_variables(self, store: Any) -> None:
        """Stores the factors by name."""
        for name in ("original", "maps", "pruned"):
            store[name] = getattr(self, name).numpy()

    def load_own_variables(self, store: Any) -> None:
        """Takes the factors from the store."""
        for name in ("original", "maps", "pruned"):
            getattr(self, name).assign(store[name])

    def get_config(self) -> dict[str, Any]:
        """Returns the config, with the current factors."""
        factors = {n: float(getattr(self, n).numpy()) for n in ("original", "maps", "pruned")}
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"name": self.name, "inner_optimizer": inner, **factors}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ScaledRates:
        """Makes the optimizer from its config."""
        inner = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        return cls(**{**config, "inner_optimizer": inner})
