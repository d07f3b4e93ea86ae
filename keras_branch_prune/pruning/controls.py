"""The controls of blending: standard pruning, and training the narrow network from scratch.

Both take the same data, recipe and targets as `prune`, so that only the method differs.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import keras

from keras_branch_prune.analysis import PruningPlan
from keras_branch_prune.branching import select
from keras_branch_prune.common import require_integer
from keras_branch_prune.planning import plan as make_plan
from keras_branch_prune.pruning.pruning_run import PruningRun
from keras_branch_prune.pruning.recipe import Recipe
from keras_branch_prune.pruning.result import PruningResult
from keras_branch_prune.pruning.trainer import Callbacks, Compile, Trainer, compile_like
from keras_branch_prune.saliency import SALIENCIES


def standard_prune(
    model: keras.Model,
    train: Any,
    validation: Any = None,
    *,
    output_dir: str | os.PathLike[str],
    rounds: int = 5,
    recipe: Recipe | None = None,
    test: Any = None,
    compile: Compile | None = None,
    callbacks: Callbacks = tuple,
    verbose: Any = "auto",
    **target: Any,
) -> PruningResult:
    """Prunes a model as is customary: removes the weakest channels, retrains, and repeats.

    Every round multiplies the widths by the same factor (64 → 32 → 16 in two rounds), removes the
    channels that are weakest by then, and trains for `recipe.finetune_epochs`, with the learning
    rate rewound to the early one (Renda, Frankle, Carbin, "Comparing rewinding and fine-tuning in
    neural network pruning", 2020). One round is selection at once, and fine-tuning.

    The arguments are those of `prune`, and `rounds`, the number of rounds, at least 1. Settings of
    the recipe for blending are ignored. `callbacks` returns new ones for every round. The plan
    gives the final widths; `saliency`, "l1" unless it is given, chooses the channels in every
    round.

    Returns:
        The compact model, and how it compares with the original.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `rounds` is not such a number, or for the reasons of `prune`.
        RuntimeError: If the loss became NaN or infinite.

    Example:
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> result = keras_branch_prune.standard_prune(
        ...     model, (images, labels), output_dir="standard", rounds=2, width=0.5, verbose=0,
        ...     recipe=keras_branch_prune.Recipe(finetune_epochs=1))
        >>> sorted(result.history)
        ['round_1', 'round_2']
    """
    require_integer("rounds", rounds, at_least=1)
    recipe, target = recipe or Recipe(), {"saliency": "l1", **target}
    if "plan" in target:
        del target["saliency"]
    trainer = Trainer(compile or compile_like(model), train, validation, recipe, callbacks, verbose)
    run = PruningRun.start(output_dir, model, trainer, target, rounds=rounds)
    plan, current = run.make_plan(), model
    stages = [f"round_{number}" for number in range(1, rounds + 1)]
    for number, stage in enumerate(stages, 1):
        widths = _widths(plan, number / rounds)
        current = run.finetune(stage, functools.partial(_remove_weakest, run, current, widths))
    return run.make_result(plan, stages, test)


def train_from_scratch(
    model: keras.Model,
    train: Any,
    validation: Any = None,
    *,
    output_dir: str | os.PathLike[str],
    epochs: int,
    recipe: Recipe | None = None,
    test: Any = None,
    compile: Compile | None = None,
    callbacks: Callbacks = tuple,
    verbose: Any = "auto",
    **target: Any,
) -> PruningResult:
    """Trains the architecture of the compact model from random weights.

    Without this control, a result does not show that pruning was of use (Liu et al., "Rethinking
    the value of network pruning", 2019). Give it as many epochs as the pruned model has had.

    The arguments are those of `prune`, and `epochs`, the number of epochs, at least 1. Settings of
    the recipe for blending are ignored. The weights of `model` are used for the plan only.

    Returns:
        The narrow model, and how it compares with the original.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `epochs` is not such a number, or for the reasons of `prune`.
        RuntimeError: If the loss became NaN or infinite.

    Example:
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> result = keras_branch_prune.train_from_scratch(
        ...     model, (images, labels), output_dir="scratch", epochs=2, width=0.5, verbose=0)
        >>> len(result.history["scratch"])
        2
    """
    require_integer("epochs", epochs, at_least=1)
    recipe = dataclasses.replace(recipe or Recipe(), finetune_epochs=epochs)
    trainer = Trainer(compile or compile_like(model), train, validation, recipe, callbacks, verbose)
    run = PruningRun.start(output_dir, model, trainer, target)
    plan = run.make_plan()
    run.finetune("scratch", lambda: _build_untrained(model, plan, recipe.seed))
    return run.make_result(plan, ["scratch"], test)


def _widths(plan: PruningPlan, share: float) -> dict[str, int]:
    """Returns the width of every group after a share of the rounds, each of the same factor."""
    return {
        group.name: round(group.channels * (group.width / group.channels) ** share)
        for group in plan.groups
    }


def _remove_weakest(run: PruningRun, model: keras.Model, widths: Mapping[str, int]) -> keras.Model:
    """Returns a model of these widths, with the channels of highest saliency."""
    saliency = run.target.get("saliency", "l1")
    options: dict[str, Any] = {"saliency": saliency, "seed": run.trainer.recipe.seed}
    if SALIENCIES[saliency].needs != "weights":
        options["calibration"] = run.calibration()
    if SALIENCIES[saliency].needs == "loss":
        options["loss"] = run.target["loss"]
    # With `width=1.0`, the ceilings alone decide.
    return select(model, make_plan(model, width=1.0, ceilings=widths, **options))


def _build_untrained(model: keras.Model, plan: PruningPlan, seed: int) -> keras.Model:
    """Returns the compact architecture with new weights."""
    compact = select(model, plan)
    keras.utils.set_random_seed(seed)
    # `clone_model` copies no weights: layers are built anew from their initializers.
    return keras.models.clone_model(compact)
