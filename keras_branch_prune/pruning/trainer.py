"""Trains and evaluates models by a recipe."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_branch_prune.data import ShuffledArrays, check_data, read_first_samples
from keras_branch_prune.pruning.recipe import Recipe
from keras_branch_prune.training import EpochBackup, StopOnNonFinite

# Of the early learning rate, while α falls.
_BLEND_SHARE = 0.2

Compile = Callable[[keras.Model], None]
"""Compiles a model with a new optimizer, and the loss and metrics of all stages."""

Callbacks = Callable[[], Sequence[keras.callbacks.Callback]]
"""Returns further callbacks, new ones for every stage of training."""


def compile_like(model: keras.Model) -> Compile:
    """Returns a function that compiles other models as a model is compiled.

    Raises:
        ValueError: If the model is not compiled.
    """
    config = model.get_compile_config() if model.compiled else None
    if not config or config.get("loss") is None:
        raise ValueError(
            "`model` must be compiled with a loss, with which it is trained on; or pass "
            f"`compile=`. Received: '{model.name}', not compiled with one"
        )

    def compile_(other: keras.Model) -> None:
        other.compile_from_config(config)

    return compile_


def _set_learning_rate(model: keras.Model, rate: float) -> None:
    """Gives a newly compiled model a constant learning rate; a schedule is replaced.

    Raises:
        TypeError: If the optimizer takes no constant.
    """
    try:
        model.optimizer.learning_rate = rate
    # An optimizer that was made with a schedule takes no number.
    except TypeError:
        config = model.optimizer.get_config()
        if "learning_rate" not in config:
            raise
        model.optimizer = type(model.optimizer).from_config({**config, "learning_rate": rate})


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Trains models on the same data, each from the last epoch in its backup on.

    Args:
        compile: Compiles a model.
        train: `(inputs, targets)` or `(inputs, targets, sample_weights)` of arrays, or a dataset.
        validation: The same for validation, or `None`.
        recipe: How to train.
        callbacks: Returns further callbacks, new ones for every stage.
        verbose: As for `fit`.

    Raises:
        TypeError: If the data is not of that kind.
        ValueError: If a dataset has no end.
    """

    compile: Compile
    train: Any
    validation: Any
    recipe: Recipe
    callbacks: Callbacks = tuple
    verbose: Any = "auto"

    def __post_init__(self) -> None:
        check_data("train", self.train)
        if self.validation is not None:
            check_data("validation", self.validation)

    @functools.cached_property
    def early_rate(self) -> float:
        """The learning rate that fine-tuning begins with."""
        if self.recipe.learning_rate is not None:
            return self.recipe.learning_rate
        # The rate is known only after compiling, and the caller's models must stay as they are.
        probe = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        self.compile(probe)
        return float(keras.ops.convert_to_numpy(probe.optimizer.learning_rate))

    @property
    def blend_rate(self) -> float:
        """The learning rate while α falls."""
        given = self.recipe.blend_learning_rate
        return _BLEND_SHARE * self.early_rate if given is None else given

    def fit(
        self,
        model: keras.Model,
        backup: Path,
        *,
        epochs: int,
        learning_rate: float,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        finished: Callable[[], bool] = lambda: False,
    ) -> None:
        """Trains a model in place.

        Args:
            model: The model; compiled anew.
            backup: Folder of the backup.
            epochs: Number of epochs in all, with those in the backup.
            learning_rate: The learning rate at the start.
            callbacks: The callbacks of this stage, called before the others.
            finished: Whether no more epochs are needed; asked after the backup was restored.

        Raises:
            RuntimeError: If the loss became NaN or infinite. The backup stays.
        """
        self.compile(model)
        _set_learning_rate(model, learning_rate)
        guard = StopOnNonFinite()
        everything = [*callbacks, guard, *self.callbacks()]
        keeper = EpochBackup(backup, everything)
        done = keeper.restore(model)
        if done >= epochs or finished():
            return
        # A resumed training must not draw the numbers of the first epochs again.
        keras.utils.set_random_seed(self.recipe.seed + done)
        model.fit(
            self._shuffle(done),
            shuffle=isinstance(self.train, keras.utils.PyDataset),
            epochs=epochs,
            initial_epoch=done,
            validation_data=self.validation,
            validation_batch_size=self._batch_size(self.validation),
            callbacks=[*everything, keeper],
            verbose=self.verbose,
        )
        if guard.stopped_epoch is not None:
            raise RuntimeError(
                f"Training of '{model.name}' stopped: the loss was not finite in epoch "
                f"{guard.stopped_epoch + 1}. What was good is in '{backup}'. Lower the learning "
                "rate or take smaller steps of α, with another `output_dir`."
            )

    def evaluate(self, model: keras.Model, data: Any) -> dict[str, float]:
        """Returns loss and metrics of a model, which is compiled for it."""
        self.compile(model)
        arrays = data if isinstance(data, tuple) else (data,)
        named = dict(zip(("x", "y", "sample_weight"), arrays, strict=False))
        size = self._batch_size(data)
        results = model.evaluate(**named, batch_size=size, verbose=0, return_dict=True)
        return {name: float(value) for name, value in results.items()}

    def calibration(self) -> Any:
        """Returns training samples for calibration, `(inputs, targets)`, or `None`.

        From arrays they are drawn without replacement; of a dataset the first are taken.
        """
        count = self.recipe.calibration_samples
        if not count:
            return None
        if not isinstance(self.train, tuple):
            return read_first_samples(self.train, count)
        samples = len(tree.flatten(self.train)[0])
        rng = np.random.default_rng(self.recipe.seed)
        chosen = np.sort(rng.permutation(samples)[:count])
        return tree.map_structure(lambda array: np.asarray(array)[chosen], self.train[:2])

    def _shuffle(self, epoch: int) -> Any:
        """Returns the training data from an epoch on, arrays in an order by seed and epoch."""
        if not isinstance(self.train, tuple):
            return self.train
        return ShuffledArrays(self.train, self.recipe.batch_size, self.recipe.seed, epoch)

    def _batch_size(self, data: Any) -> int | None:
        """Returns the batch size for `fit` and `evaluate`: datasets have their own."""
        return self.recipe.batch_size if isinstance(data, tuple) else None
