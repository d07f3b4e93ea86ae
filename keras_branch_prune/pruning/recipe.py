"""How a model is trained while it is pruned: the settings, and one training stage."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_branch_prune.common.arguments import number_up_to, require_integer, require_number
from keras_branch_prune.data.datasets import _check_data, _first
from keras_branch_prune.data.shuffled import ShuffledArrays
from keras_branch_prune.training.backup import EpochBackup
from keras_branch_prune.training.divergence import StopOnNonFinite

_BLEND_SHARE = 0.2

Compile = Callable[[keras.Model], None]
"""Compiles a model with a new optimizer, and the loss and metrics of all stages."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How `prune` and the controls train; a value, so that runs with one recipe are comparable.

    Args:
        blend_epochs: The most epochs until α must be 0.
        finetune_epochs: Epochs for the compact model.
        learning_rate: The early learning rate, to which fine-tuning returns (it then falls to 0
            along a cosine); `None`: the one that the model was compiled with, a schedule's at its
            beginning.
        blend_learning_rate: The learning rate while α falls; `None`: a fifth of `learning_rate`.
        calibration_samples: Training samples to rank channels by and to fit the pruned branch on;
            0: none, the branch begins as a selection of the original's channels.
        refine: Whether to improve that fit by gradient descent, see `refine`.
        train_original: Whether the original's layers are trained while α falls, or frozen.
        stochastic: Whether every blend takes one of its branches per batch, see `branch`.
        reestimate_batch_norm: Whether to re-estimate the statistics of BatchNormalization after
            every epoch while α falls, and at α = 0, on as many training samples as calibration
            has: `ReestimateBatchNorm`. `None`: if there are any.
        distillation: Share of the loss that is the distance to the untouched original's outputs,
            in [0, 1], in both stages.
        temperature: Temperature of that distance.
        matching: Weight of the distance between the branches at every blend.
        batch_size: Samples per step, where arrays are given.
        seed: Seed of the plan, of what is drawn for calibration, and of the order of arrays.

    Raises:
        ValueError: If an argument is out of its range.
    """

    blend_epochs: int = 50
    finetune_epochs: int = 10
    learning_rate: float | None = None
    blend_learning_rate: float | None = None
    calibration_samples: int = 1000
    refine: bool = False
    train_original: bool = True
    stochastic: bool = False
    reestimate_batch_norm: bool | None = None
    distillation: float = 0.0
    temperature: float = 4.0
    matching: float = 0.0
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"blend_epochs": 1, "finetune_epochs": 0, "calibration_samples": 0}
        for name, low in {**least, "batch_size": 1, "seed": 0}.items():
            require_integer(name, getattr(self, name), at_least=low)
        for name in ("learning_rate", "blend_learning_rate", "temperature"):
            value = getattr(self, name)
            if value is not None or name == "temperature":
                require_number(name, value, lambda x: 0 < x < math.inf, "a positive number")
        number_up_to("distillation", self.distillation, at_most=1)
        number_up_to("matching", self.matching, at_most=math.inf)


def compile_like(model: keras.Model) -> Compile:
    """Returns what compiles other models as a model is compiled.

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
    """Gives a model just compiled a constant learning rate; a schedule is replaced.

    Raises:
        TypeError: If the optimizer takes no constant.
    """
    try:
        model.optimizer.learning_rate = rate
    except TypeError:
        config = model.optimizer.get_config()
        if "learning_rate" not in config:
            raise
        model.optimizer = type(model.optimizer).from_config({**config, "learning_rate": rate})


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Trains models on the same data, each from where its backup is.

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
    callbacks: Callable[[], Sequence[keras.callbacks.Callback]] = tuple
    verbose: Any = "auto"

    def __post_init__(self) -> None:
        _check_data("train", self.train)
        if self.validation is not None:
            _check_data("validation", self.validation)

    @functools.cached_property
    def early_rate(self) -> float:
        """The learning rate that fine-tuning begins with."""
        if self.recipe.learning_rate is not None:
            return self.recipe.learning_rate
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
            epochs: Number of epochs in all.
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
        keras.utils.set_random_seed(self.recipe.seed + done)
        model.fit(
            self._shuffled(done),
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

        Of arrays they are drawn without replacement, of a dataset they are the first ones.
        """
        count = self.recipe.calibration_samples
        if not count:
            return None
        if not isinstance(self.train, tuple):
            return _first(self.train, count)
        samples = len(tree.flatten(self.train)[0])
        rng = np.random.default_rng(self.recipe.seed)
        chosen = np.sort(rng.permutation(samples)[:count])
        return tree.map_structure(lambda array: np.asarray(array)[chosen], self.train[:2])

    def _shuffled(self, epoch: int) -> Any:
        """Returns the training data from an epoch on."""
        if not isinstance(self.train, tuple):
            return self.train
        return ShuffledArrays(self.train, self.recipe.batch_size, self.recipe.seed, epoch)

    def _batch_size(self, data: Any) -> int | None:
        """Returns the batch size that data needs to be told."""
        return self.recipe.batch_size if isinstance(data, tuple) else None
