"""The result of pruning: the compact model, compared with the original."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

from keras_branch_prune.analysis import PruningPlan
from keras_branch_prune.common import format_table

_MODELS = ("original", "compact")


@dataclasses.dataclass(frozen=True, eq=False)
class PruningResult:
    """A compact model, and how it compares with the original.

    Args:
        model: The compact model, not compiled.
        plan: Which channels stayed.
        metrics: By "original" and "compact": "parameters", "macs" (per sample), and loss and
            metrics on the validation data (`val_…`) and the test data (`test_…`) that was given.
        history: By stage, the logs of its epochs.
        folder: The folder of models, plan, histories, table and the SavedModel
            `compact_saved_model`.
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


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
