"""What blending must be compared with: standard pruning, and training the narrow net from scratch.

Both take the same data, recipe and targets as `prune`, so that nothing but the method differs.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_branch_prune.analysis import PruningPlan
from keras_branch_prune.branching import branch, merge
from keras_branch_prune.common import require_integer
from keras_branch_prune.layers import set_alpha
from keras_branch_prune.planning import plan as make_plan
from keras_branch_prune.pruning.recipe import Recipe
from keras_branch_prune.pruning.result import PruningResult, result_of
from keras_branch_prune.pruning.run_folder import RunFolder, run_settings
from keras_branch_prune.pruning.pruning_run import calibration_data, finetuned, planned
from keras_branch_prune.pruning.trainer import Compile, Trainer, compile_like
from keras_branch_prune.saliency import SALIENCIES

Callbacks = Callable[[], Sequence[keras.callbacks.Callback]]


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

    Args:
        model: As for `prune`.
        train: As for `prune`.
        validation: As for `prune`.
        output_dir: As for `prune`; the run can be resumed in the same way.
        rounds: Number of rounds, at least 1.
        recipe: As for `prune`; what it says about blending does not count.
        test: As for `prune`.
        compile: As for `prune`.
        callbacks: Returns further callbacks, new ones for every round.
        verbose: As for `fit`.
        **target: Arguments of `plan`, which gives the final widths. `saliency`, "l1" unless it is
            given, chooses the channels in every round.

    Returns:
        The compact model, and how it compares with the original.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, `model` is not compiled and there is no
            `compile`, or `output_dir` was begun with other arguments.
        RuntimeError: If the loss became NaN or infinite.
    """
    require_integer("rounds", rounds, at_least=1)
    recipe, target = recipe or Recipe(), {"saliency": "l1", **target}
    if "plan" in target:
        del target["saliency"]
    trainer = Trainer(compile or compile_like(model), train, validation, recipe, callbacks, verbose)
    run = RunFolder(output_dir, run_settings(model, recipe, target, rounds=rounds))
    plan = planned(run, model, trainer, target)
    current, stages = model, [f"round_{number}" for number in range(1, rounds + 1)]
    for number, stage in enumerate(stages, 1):
        widths = _widths(plan, number / rounds)
        select = functools.partial(
            _narrowed, current, widths, target.get("saliency", "l1"), target, trainer
        )
        current = run.stage(stage, functools.partial(finetuned, select, model, trainer))
    return result_of(run, model, plan, stages, trainer, test)


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

    Args:
        model: As for `prune`; only its architecture counts, its weights for the plan.
        train: As for `prune`.
        validation: As for `prune`.
        output_dir: As for `prune`; the run can be resumed in the same way.
        epochs: Number of epochs, at least 1.
        recipe: As for `prune`; what it says about blending does not count.
        test: As for `prune`.
        compile: As for `prune`.
        callbacks: Returns further callbacks.
        verbose: As for `fit`.
        **target: Arguments of `plan`, or `plan=` with a finished one.

    Returns:
        The narrow model, and how it compares with the original.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, `model` is not compiled and there is no
            `compile`, or `output_dir` was begun with other arguments.
        RuntimeError: If the loss became NaN or infinite.
    """
    require_integer("epochs", epochs, at_least=1)
    recipe = dataclasses.replace(recipe or Recipe(), finetune_epochs=epochs)
    trainer = Trainer(compile or compile_like(model), train, validation, recipe, callbacks, verbose)
    run = RunFolder(output_dir, run_settings(model, recipe, target))
    plan = planned(run, model, trainer, target)
    begin = functools.partial(_random, model, plan, recipe.seed)
    run.stage("scratch", functools.partial(finetuned, begin, model, trainer))
    return result_of(run, model, plan, ["scratch"], trainer, test)


def _widths(plan: PruningPlan, share: float) -> dict[str, int]:
    """Returns the width of every group after a share of the way, in equal factors."""
    return {
        group.name: round(group.channels * (group.width / group.channels) ** share)
        for group in plan.groups
    }


def _narrowed(
    model: keras.Model,
    widths: Mapping[str, int],
    saliency: str,
    target: Mapping[str, Any],
    trainer: Trainer,
) -> keras.Model:
    """Returns a model without its weakest channels."""
    options: dict[str, Any] = {"saliency": saliency, "seed": trainer.recipe.seed}
    if SALIENCIES[saliency].needs != "weights":
        options["calibration"] = calibration_data(trainer, target)
    if SALIENCIES[saliency].needs == "loss":
        options["loss"] = target["loss"]
    return _compact(model, make_plan(model, width=1.0, ceilings=widths, **options))


def _random(model: keras.Model, plan: PruningPlan, seed: int) -> keras.Model:
    """Returns the compact architecture with new weights."""
    compact = _compact(model, plan)
    keras.utils.set_random_seed(seed)
    return keras.models.clone_model(compact)


def _compact(model: keras.Model, plan: PruningPlan) -> keras.Model:
    """Returns what a plan selects of a model."""
    branched = branch(model, plan)
    set_alpha(branched, 0)
    return merge(branched)
