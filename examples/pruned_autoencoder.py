"""Measures an autoencoder before, during and after pruning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from autoencoder_data import AutoencoderData
from image_quality import compile_autoencoder

import keras_branch_prune as kbp

# How far the merged model may be from the branched one at α = 0, in units of the image's range.
TOLERANCE = 1e-5

Metrics = dict[str, Any]


def measured(model: keras.Model, data: AutoencoderData, *, test: bool = False) -> Metrics:
    """Evaluates and counts a model.

    Args:
        model: Any autoencoder; compiled anew.
        data: Has the crops to evaluate on.
        test: Whether on the test crops, too.

    Returns:
        Loss and metrics, as `train_…`, `val_…` and perhaps `test_…`, "parameters" and "macs".
    """
    compile_autoencoder(model)
    found: Metrics = {}
    for split, crops in data.evaluation.items():
        if split != "test" or test:
            values = model.evaluate(
                crops, crops, batch_size=data.batch_size, verbose=0, return_dict=True
            )
            found |= {f"{split}_{name}": float(value) for name, value in values.items()}
    return {
        **found,
        "parameters": kbp.count_parameters(model),
        "macs": kbp.count_macs(model),
    }


def measured_steps(
    results: Sequence[kbp.PruningResult], scopes: Sequence[Sequence[str]], data: AutoencoderData
) -> Metrics:
    """Measures what became of an autoencoder in one or several prunings one after the other.

    Args:
        results: What `kbp.prune` returned.
        scopes: What it pruned.
        data: Has the crops to evaluate on; those for the test are for the last model alone.

    Returns:
        The epochs of all, and by number as "steps" the metrics of the model at α = 0, of the merged
        and of the compact model.
    """
    steps = []
    for result, scope in zip(results, scopes, strict=True):
        branched, merged = before_and_after_multiplication(result.folder)
        steps.append(
            {
                "scope": list(scope),
                "difference": largest_difference(branched, merged, data),
                "alpha_0": measured(branched, data),
                "merged": measured(merged, data),
                "compact": measured(result.model, data, test=result is results[-1]),
            }
        )
    epochs = {
        stage: sum(len(result.history[name]) for result in results)
        for stage, name in (("blend_epochs", "branched"), ("finetune_epochs", "compact"))
    }
    return {**epochs, "steps": steps}


def before_and_after_multiplication(folder: Path) -> tuple[keras.Model, keras.Model]:
    """Loads a branched model whose α is 0; returns it and the same with its maps multiplied."""
    branched = kbp.load_model(folder / "branched.keras", compile=False)
    return branched, kbp.merge(branched)


def largest_difference(branched: keras.Model, merged: keras.Model, data: AutoencoderData) -> float:
    """Returns the largest difference of two models' pixels on the validation crops.

    Raises:
        RuntimeError: If it is more than rounding: then the multiplication was wrong.
    """
    crops = data.evaluation["val"]
    images = [m.predict(crops, batch_size=data.batch_size, verbose=0) for m in (branched, merged)]
    difference = float(np.max(np.abs(images[0] - images[1])))
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"The merged model must do what '{branched.name}' does at α = 0, to {TOLERANCE:g}. "
            f"Their pixels differ by up to {difference:g}"
        )
    return difference
