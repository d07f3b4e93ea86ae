"""An optimizer that scales updates: original layers, maps and narrow layers, each by a factor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_branch_prune.common import require, require_number_up_to
from keras_branch_prune.layers import PACKAGE, is_inside_narrow, is_map_weight, scale_by_share


@keras.saving.register_keras_serializable(package=PACKAGE)
class ScaledRates(keras.optimizers.Optimizer):
    """Scales an optimizer's updates of the original layers, of the maps and of the narrow layers.

    At α = 0 a linear layer W of the original reads what an expand map E makes, and feeds a reduce
    map R; `merge` multiplies the three into one kernel. A change of one of them acts through the
    others, so that a learning rate that suits one may be too large for another. Here the inner
    optimizer updates every variable, and then the update is multiplied by the factor of the
    variable's kind. A constant factor acts like one on the learning rate; weight decay is scaled
    too. A factor of 0 freezes the variables.

    The factors are the variables `original`, `maps` and `pruned`: `optimizer.original.assign(0)`
    takes effect at once, without retracing, and is saved with the optimizer's state. During an
    update there is a copy of all weights.

    Args:
        inner_optimizer: The `keras.optimizers.Optimizer` to wrap. Its learning rate is also that of
            this optimizer, for callbacks such as `keras.callbacks.ReduceLROnPlateau`.
        original: Factor of the layers of the original model, at least 0.
        maps: Factor of the maps that reduce and expand, at least 0.
        pruned: Factor of the narrow layers between a reduce and an expand map, such as
            BatchNormalization, at least 0.
        name: Name of the optimizer.

    Raises:
        ValueError: If `inner_optimizer` is not an optimizer, or averages the weights (`use_ema`),
            or a factor is out of range.

    Example:
        >>> optimizer = keras_branch_prune.ScaledRates(keras.optimizers.Adam(1e-3), original=0.1)
        >>> branched.compile(optimizer, "sparse_categorical_crossentropy")
        >>> history = branched.fit(images, labels, verbose=0)
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
        valid = isinstance(inner_optimizer, keras.optimizers.Optimizer)
        require(valid, "inner_optimizer", inner_optimizer, "a keras.optimizers.Optimizer")
        if inner_optimizer.use_ema:
            raise ValueError(
                "`inner_optimizer` must not average the weights, because it would average them "
                "before their updates are scaled. Received: use_ema=True"
            )
        # Not used: `learning_rate` below is that of the inner optimizer.
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.original = self._add_factor("original", original)
        self.maps = self._add_factor("maps", maps)
        self.pruned = self._add_factor("pruned", pruned)

    def _add_factor(self, name: str, value: float) -> Any:
        value = require_number_up_to(name, value, at_most=math.inf)
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
        # At a factor of 1 `old + (new − old)` would differ from `new` by rounding.
        scaled = ops.where(factor == 1, new, old + scale_by_share(new - old, factor))
        # A point between two that obey the constraint may not, as on the unit sphere.
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
