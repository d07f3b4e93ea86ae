"""The whole way from a trained model to a compact one, in one call that can be resumed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_branch_prune.alpha import AlphaBacktracking, AlphaCallback, AlphaLinearDecay
from keras_branch_prune.analysis import PruningPlan
from keras_branch_prune.branching import branch, merge, refine
from keras_branch_prune.layers import get_alpha
from keras_branch_prune.pruning.recipe import Recipe
from keras_branch_prune.pruning.result import PruningResult, result_of
from keras_branch_prune.pruning.run_folder import RunFolder, run_settings
from keras_branch_prune.pruning.stages import calibration_data, finetuned, planned, with_losses
from keras_branch_prune.pruning.trainer import Compile, Trainer, compile_like
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
    callbacks: Callable[[], Sequence[keras.callbacks.Callback]] = tuple,
    verbose: Any = "auto",
    **target: Any,
) -> PruningResult:
    """Prunes a trained model: plans, fits, blends, merges, fine-tunes, exports and compares.

    Killed at any moment and called again with the same arguments, it goes on where it was, from
    the last whole epoch. A finished run is only loaded.

    Args:
        model: A trained functional or Sequential model; it is not changed.
        train: Training data: `(inputs, targets)` or `(inputs, targets, sample_weights)` of arrays,
            or a dataset that `fit` takes and that ends.
        validation: Data of the same kind, by which every epoch is judged.
        output_dir: Folder of this run.
        alpha: The callback that lets α fall; `None`: `AlphaLinearDecay(5)`.
        recipe: Epochs, learning rates, calibration, distillation; `None`: `Recipe()`.
        test: Data of the same kind, on which the original and the compact model are evaluated once.
        compile: Compiles the model it is given with a new optimizer, loss and metrics; `None`: as
            `model` is compiled.
        callbacks: Returns further callbacks, new ones for each of the two training stages.
        verbose: As for `fit`.
        **target: Arguments of `plan`, among them one of `width`, `params`, `macs`, `latency`; or
            `plan=` with a finished one. `calibration`, by which channels are ranked and the branch
            is fitted, are training samples unless it is given.

    Returns:
        The compact model, and how it compares with the original.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, `model` is not compiled and there is no
            `compile`, or `output_dir` was begun with other arguments.
        RuntimeError: If α did not reach 0, or the loss became NaN or infinite. What was trained
            stays in `output_dir`.

    Example:
        >>> recipe = kbp.Recipe(blend_epochs=20, finetune_epochs=2)
        >>> result = kbp.prune(
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
    run = RunFolder(output_dir, run_settings(model, recipe, target, alpha=_described(alpha)))
    plan = planned(run, model, trainer, target)
    start = functools.partial(_start, model, plan, trainer, target)
    blend = functools.partial(_blend, run, start, model, trainer, alpha)
    branched = run.stage("branched", blend)
    run.stage("compact", functools.partial(finetuned, lambda: merge(branched), model, trainer))
    return result_of(run, model, plan, ("branched", "compact"), trainer, test)


def _check_samples(recipe: Recipe, target: Mapping[str, Any]) -> None:
    """Raises unless there are samples for what the recipe does with them."""
    given = target.get("calibration") is not None
    samples = {"refine": recipe.calibration_samples or given}
    samples["reestimate_batch_norm"] = recipe.calibration_samples
    for name, available in samples.items():
        if getattr(recipe, name) and not available:
            raise ValueError(
                f"`{name}` needs samples. Received: {name}=True, calibration_samples=0"
            )


def _start(
    model: keras.Model, plan: PruningPlan, trainer: Trainer, target: Mapping[str, Any], _: Path
) -> keras.Model:
    """Returns the branched model as blending begins with it."""
    recipe, data = trainer.recipe, calibration_data(trainer, target)
    branched = branch(
        model,
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
    run: RunFolder,
    start: Callable[[Path], keras.Model],
    original: keras.Model,
    trainer: Trainer,
    alpha: AnyAlphaCallback,
    backup: Path,
) -> keras.Model:
    """Returns the branched model after α has fallen to 0."""
    branched, recipe = run.stage("start", start), trainer.recipe
    samples = _samples_for_statistics(trainer)
    statistics = [] if samples is None else [ReestimateBatchNorm(samples, recipe.batch_size)]
    trainer.fit(
        with_losses(branched, original, recipe, recipe.matching),
        backup,
        epochs=recipe.blend_epochs,
        learning_rate=trainer.blend_rate,
        callbacks=[alpha, _StopWhenDone(alpha), *statistics],
        finished=lambda: _is_done(alpha, branched),
    )
    if get_alpha(branched) > 0:
        raise RuntimeError(
            f"α is still {get_alpha(branched):g} after at most {recipe.blend_epochs} epochs: allow "
            "more `blend_epochs`, larger steps, or a larger fall of the metric, with another "
            f"`output_dir` than '{run.folder}'."
        )
    if samples is not None:
        # α became 0 after the last epoch's statistics were taken.
        reestimate_batch_norm(branched, samples, recipe.batch_size)
    return branched


def _samples_for_statistics(trainer: Trainer) -> Any:
    """Returns inputs to re-estimate statistics on, or `None` if the recipe wants none."""
    recipe = trainer.recipe
    wanted = recipe.reestimate_batch_norm is not False and recipe.calibration_samples
    return trainer.calibration()[0] if wanted else None


class _StopWhenDone(keras.callbacks.Callback):
    """Ends training when α has reached 0 and, where steps are judged, has proved itself there."""

    def __init__(self, alpha: AnyAlphaCallback):
        super().__init__()
        self._alpha = alpha

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops after the epoch at whose end that was so."""
        if _is_done(self._alpha, self.model):
            self.model.stop_training = True


def _is_done(alpha: AnyAlphaCallback, model: keras.Model) -> bool:
    judged = isinstance(alpha, AlphaBacktracking)
    return alpha.finished if judged else get_alpha(model) == 0


def _described(callback: keras.callbacks.Callback) -> str:
    """Returns class and arguments of a callback that was not used yet."""
    arguments = {k: v for k, v in vars(callback).items() if k[0] != "_" and v is not None}
    listed = ", ".join(f"{name}={value!r}" for name, value in sorted(arguments.items()))
    return f"{type(callback).__name__}({listed})"
