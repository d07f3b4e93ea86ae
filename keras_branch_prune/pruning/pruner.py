"""The whole way from a trained model to a compact one, in one call that can be resumed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_branch_prune.alpha import (
    AlphaBacktracking,
    AlphaCallback,
    AlphaLinearDecay,
    StopAtAlphaZero,
)
from keras_branch_prune.analysis import PruningPlan
from keras_branch_prune.branching import branch, merge, refine
from keras_branch_prune.layers import get_alpha
from keras_branch_prune.pruning.pruning_run import PruningRun
from keras_branch_prune.pruning.recipe import Recipe
from keras_branch_prune.pruning.result import PruningResult
from keras_branch_prune.pruning.trainer import Callbacks, Compile, Trainer, compile_like
from keras_branch_prune.training import ReestimateBatchNorm, reestimate_batch_norm

AnyAlphaCallback = AlphaCallback | AlphaBacktracking


def prune(
    model: keras.Model,
    train: Any,
    validation: Any = None,
    *,
    output_dir: str | os.PathLike[str],
    alpha: AnyAlphaCallback | None = None,
    recipe: Recipe | None = None,
    test: Any = None,
    compile: Compile | None = None,
    callbacks: Callbacks = tuple,
    verbose: Any = "auto",
    **target: Any,
) -> PruningResult:
    """Prunes a trained model: plans, fits, blends, merges, fine-tunes, exports and compares.

    If the process is killed, call it again with the same arguments: it goes on after the last
    complete epoch. A finished run is only loaded.

    Args:
        model: A trained functional or Sequential model; it is not changed.
        train: Training data: `(inputs, targets)` or `(inputs, targets, sample_weights)` of arrays,
            or a dataset that `fit` takes and that ends.
        validation: Data of the same kind, on which every epoch is evaluated.
        output_dir: Folder of this run.
        alpha: The callback that lets α fall; `None`: `AlphaLinearDecay(5)`.
        recipe: Epochs, learning rates, calibration, distillation; `None`: `Recipe()`.
        test: Data of the same kind, on which the original and the compact model are evaluated once.
        compile: Compiles the model it is given with a new optimizer, loss and metrics; `None`: as
            `model` is compiled.
        callbacks: Returns further callbacks, new ones for each of the two training stages.
        verbose: As for `fit`.
        **target: Arguments of `plan`, among them one of `width`, `params`, `macs`, `latency`; or
            `plan=` with a finished one. `calibration` ranks the channels and fits the branch; it is
            `recipe.calibration_samples` training samples unless it is given.

    Returns:
        The compact model, and how it compares with the original.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, `model` is not compiled and there is no
            `compile`, or `output_dir` was begun with other arguments.
        RuntimeError: If α did not reach 0, or the loss became NaN or infinite. What was trained
            stays in `output_dir`.

    Example:
        >>> recipe = keras_branch_prune.Recipe(blend_epochs=20, finetune_epochs=2)
        >>> result = prune(
        ...     model, (images, labels), validation, output_dir="run", macs=0.5, recipe=recipe
        ... )
        >>> list(result.metrics)
        ['original', 'compact']
    """
    recipe, alpha = recipe or Recipe(), AlphaLinearDecay(5) if alpha is None else alpha
    if not isinstance(alpha, AnyAlphaCallback):
        raise TypeError(
            f"`alpha` must be an α callback such as `AlphaStepDecay(0.1)`. Received: {alpha!r}"
        )
    _check_samples(recipe, target)
    trainer = Trainer(compile or compile_like(model), train, validation, recipe, callbacks, verbose)
    run = PruningRun.start(output_dir, model, trainer, target, alpha=_describe_alpha(alpha))
    plan = run.make_plan()
    branched = run.folder.stage("branched", lambda backup: _blend(run, plan, alpha, backup))
    run.finetune("compact", lambda: merge(branched))
    return run.make_result(plan, ("branched", "compact"), test)


def _check_samples(recipe: Recipe, target: Mapping[str, Any]) -> None:
    """Raises if the recipe asks for what needs samples, and there are none."""
    count, given = recipe.calibration_samples, target.get("calibration") is not None
    samples = {"refine": count or given, "reestimate_batch_norm": count}
    for name, available in samples.items():
        if getattr(recipe, name) and not available:
            raise ValueError(
                f"`{name}` needs samples. Received: {name}=True, calibration_samples=0"
            )


def _branch(run: PruningRun, plan: PruningPlan) -> keras.Model:
    """Returns the branched model as blending begins with it."""
    recipe, data = run.trainer.recipe, run.calibration()
    branched = branch(
        run.model,
        plan,
        calibration=data,
        train_original=recipe.train_original,
        stochastic=recipe.stochastic,
        seed=recipe.seed if recipe.stochastic else None,
    )
    if recipe.refine:
        refine(branched, data, seed=recipe.seed)
    return branched


def _blend(
    run: PruningRun, plan: PruningPlan, alpha: AnyAlphaCallback, backup: Path
) -> keras.Model:
    """Returns the branched model after α has fallen to 0."""
    branched = run.folder.stage("start", lambda _: _branch(run, plan))
    trainer, recipe = run.trainer, run.trainer.recipe
    samples = _samples_for_statistics(trainer)
    statistics = [] if samples is None else [ReestimateBatchNorm(samples, recipe.batch_size)]
    # `finished` needs the model before `fit` sets it.
    alpha.set_model(branched)
    trainer.fit(
        run.with_losses(branched, recipe.matching),
        backup,
        epochs=recipe.blend_epochs,
        learning_rate=trainer.blend_rate,
        callbacks=[alpha, StopAtAlphaZero(alpha), *statistics],
        finished=lambda: alpha.finished,
    )
    if get_alpha(branched) > 0:
        raise RuntimeError(
            f"α is still {get_alpha(branched):g} after at most {recipe.blend_epochs} epochs: allow "
            "more `blend_epochs`, larger steps, or a larger fall of the metric, with another "
            f"`output_dir` than '{run.folder.root}'."
        )
    if samples is not None:
        # Those of the last epoch were estimated before α became 0.
        reestimate_batch_norm(branched, samples, recipe.batch_size)
    return branched


def _samples_for_statistics(trainer: Trainer) -> Any:
    """Returns inputs to re-estimate statistics on, or `None` if the recipe wants none."""
    recipe = trainer.recipe
    wanted = recipe.reestimate_batch_norm is not False and recipe.calibration_samples
    return trainer.calibration()[0] if wanted else None


def _describe_alpha(callback: keras.callbacks.Callback) -> str:
    """Returns class and arguments of a new callback, as a text for the settings of the run."""
    arguments = dict(vars(callback))
    if isinstance(callback, AlphaBacktracking):
        # As in version 0.1.0, where the callback held the search: its runs can be resumed.
        search = arguments.pop("search")
        given = [field.name for field in dataclasses.fields(search) if field.init]
        arguments |= {name: getattr(search, name) for name in given}
        arguments |= {"finished": False, "gave_up": False}
    told = {k: v for k, v in arguments.items() if k[0] != "_" and v is not None}
    listed = ", ".join(f"{name}={value!r}" for name, value in sorted(told.items()))
    return f"{type(callback).__name__}({listed})"
