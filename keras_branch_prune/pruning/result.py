"""What became of a pruned model, compared with the original."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_branch_prune.analysis import PruningPlan, count_macs, count_parameters
from keras_branch_prune.common import format_table
from keras_branch_prune.exporting import export_saved_model
from keras_branch_prune.files import atomic_write, load_model
from keras_branch_prune.graph import build_model, canonical
from keras_branch_prune.pruning.run_folder import RunFolder
from keras_branch_prune.pruning.trainer import Trainer

_MODELS = ("original", "compact")


@dataclasses.dataclass(frozen=True, eq=False)
class PruningResult:
    """A compact model, and how it compares with the original.

    Args:
        model: The compact model, not compiled.
        plan: Which channels stayed.
        metrics: By "original" and "compact": loss and metrics on the validation data (`val_…`) and
            the test data (`test_…`), where there are some, "parameters" and "macs".
        history: By stage, the logs of its epochs.
        folder: Where models, plan, histories, table and the SavedModel `compact_saved_model` are.
    """

    model: keras.Model
    plan: PruningPlan
    metrics: Mapping[str, Mapping[str, float]]
    history: Mapping[str, Sequence[Mapping[str, float]]]
    folder: Path

    def __str__(self) -> str:
        names = self.metrics["original"]
        rows = [[n, *(_number(self.metrics[which][n]) for which in _MODELS)] for n in names]
        return format_table(["", *_MODELS], rows)


def result_of(
    run: RunFolder,
    original: keras.Model,
    plan: PruningPlan,
    stages: Sequence[str],
    trainer: Trainer,
    test: Any = None,
) -> PruningResult:
    """Exports and evaluates what a run made, unless that was done; returns the result.

    Args:
        run: The folder of the run.
        original: The model that was pruned; it is not changed.
        plan: How it was pruned.
        stages: The training stages; the model of the last one is the compact model.
        trainer: Evaluates on its validation data.
        test: Data to evaluate on too.
    """
    compact = run.path(f"{stages[-1]}.keras")
    metrics = run.read_json("result.json")
    if metrics is None:
        models = (build_model(canonical(original)), load_model(compact, compile=False))
        export_saved_model(models[1], run.path("compact_saved_model"))
        measured = [_measured(model, trainer, test) for model in models]
        metrics = dict(zip(_MODELS, measured, strict=True))
        run.write_json("result.json", metrics)
    history = {name: run.history(name) for name in stages}
    model = load_model(compact, compile=False)
    result = PruningResult(model, plan, metrics, history, run.folder)
    with atomic_write(run.path("table.txt")) as temporary:
        temporary.write_text(f"{result}\n", encoding="utf-8")
    return result


def _measured(model: keras.Model, trainer: Trainer, test: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for prefix, data in (("val", trainer.validation), ("test", test)):
        if data is not None:
            values = trainer.evaluate(model, data)
            found |= {f"{prefix}_{name}": value for name, value in values.items()}
    return {**found, "parameters": count_parameters(model), "macs": count_macs(model)}


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
