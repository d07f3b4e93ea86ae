"""What blending must be compared with: standard pruning, and training the narrow net from scratch.

Both take the same data, recipe and targets as `prune`, so that nothing but the method differs.
"""

from __future__ import annotations

import dataclasses
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

    Widths fall by the same factor in every round; the weakest channels of the weights as they are
    then go, and the model is trained for `recipe.finetune_epochs` with the learning rate rewound to
    the early one (Renda, Frankle, Carbin, "Comparing rewinding and fine-tuning in neural network
    pruning", 2020). With one round: selection at once, and fine-tuning.

    The arguments are those of `prune`, and `rounds`, the number of rounds, at least 1. What the
    recipe says about blending does not count. `callbacks` returns new ones for every round. The
    plan gives the final widths; `saliency`, "l1" unless it is given, chooses the channels in every
    round.

    Returns:
        The compact model, and how it compares with the original.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `rounds` is not such a number, or for the reasons of `prune`.
        RuntimeError: If the loss became NaN or infinite.
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
        current = _prune_round(run, stage, current, _widths(plan, number / rounds))
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

    The mandatory control of pruning (Liu et al., "Rethinking the value of network pruning", 2019):
    give it as many epochs as the pruned model has had.

    The arguments are those of `prune`, and `epochs`, the number of epochs, at least 1. What the
    recipe says about blending does not count, nor do the weights of `model`, but for the plan.

    Returns:
        The narrow model, and how it compares with the original.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `epochs` is not such a number, or for the reasons of `prune`.
        RuntimeError: If the loss became NaN or infinite.
    """
    require_integer("epochs", epochs, at_least=1)
    recipe = dataclasses.replace(recipe or Recipe(), finetune_epochs=epochs)
    trainer = Trainer(compile or compile_like(model), train, validation, recipe, callbacks, verbose)
    run = PruningRun.start(output_dir, model, trainer, target)
    plan = run.make_plan()
    run.finetune("scratch", lambda: _build_untrained(model, plan, recipe.seed))
    return run.make_result(plan, ["scratch"], test)


def _widths(plan: PruningPlan, share: float) -> dict[str, int]:
    """Returns the width of every group after a share of the way, in equal factors."""
    return {
        group.name: round(group.channels * (group.width / group.channels) ** share)
        for group in plan.groups
    }


def _prune_round(
    run: PruningRun, stage: str, model: keras.Model, widths: Mapping[str, int]
) -> keras.Model:
    """Returns a model after a round in which its weakest channels have gone."""
    return run.finetune(stage, lambda: _remove_weakest(run, model, widths))


def _remove_weakest(run: PruningRun, model: keras.Model, widths: Mapping[str, int]) -> keras.Model:
    """Returns a model of these widths, with the channels that are worth most in it."""
    saliency = run.target.get("saliency", "l1")
    options: dict[str, Any] = {"saliency": saliency, "seed": run.trainer.recipe.seed}
    if SALIENCIES[saliency].needs != "weights":
        options["calibration"] = run.calibration()
    if SALIENCIES[saliency].needs == "loss":
        options["loss"] = run.target["loss"]
    return select(model, make_plan(model, width=1.0, ceilings=widths, **options))


def _build_untrained(model: keras.Model, plan: PruningPlan, seed: int) -> keras.Model:
    """Returns the compact architecture with new weights."""
    compact = select(model, plan)
    keras.utils.set_random_seed(seed)
    return keras.models.clone_model(compact)
