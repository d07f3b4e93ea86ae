"""Tables and pictures of a pruned autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from autoencoder_data import AutoencoderData
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pruned_autoencoder import before_and_after_multiplication

import keras_branch_prune as kbp

STATES = {"alpha_0": "α = 0", "merged": "multiplied", "compact": "fine-tuned"}

_COLUMNS = {
    "train_loss": "train loss",
    "val_loss": "val loss",
    "test_loss": "test loss",
    "val_psnr": "val PSNR/dB",
    "test_psnr": "test PSNR/dB",
    "val_ssim": "val SSIM",
    "test_ssim": "test SSIM",
    "parameters": "parameters",
    "macs": "MACs",
}


def tables(metrics: dict[str, Any]) -> str:
    """Returns a table for each approach: the original, and the pruned model in its three states.

    Args:
        metrics: "original", and by name "approaches", as `measured` and `measured_steps` return.
    """
    return "\n\n".join(
        f"{name}\n{_table(metrics['original'], approach)}"
        for name, approach in metrics["approaches"].items()
    )


def _table(original: dict[str, Any], approach: dict[str, Any]) -> str:
    rows = [["", *_COLUMNS.values()], ["original", *_cells(original)]]
    notes = []
    for step in approach["steps"]:
        scope = " and ".join(step["scope"])
        several = f"{scope}, " if len(approach["steps"]) > 1 else ""
        rows += [[f"{several}{title}", *_cells(step[state])] for state, title in STATES.items()]
        notes.append(
            f"{scope}: before and after multiplication, pixels differ by at most "
            f"{step['difference']:.1e}"
        )
    ratios = loss_ratios(original, approach)
    listed = ", ".join(f"{split} {ratio:.4f}" for split, ratio in ratios.items())
    return "\n".join([_aligned(rows), f"loss after / before: {listed}", *notes])


def loss_ratios(original: dict[str, Any], approach: dict[str, Any]) -> dict[str, float]:
    """Returns by split the loss of the fine-tuned model as a multiple of the original's."""
    compact = approach["steps"][-1]["compact"]
    splits = ("train", "val", "test")
    return {split: compact[f"{split}_loss"] / original[f"{split}_loss"] for split in splits}


def comparison(metrics: dict[str, Any]) -> str:
    """Returns a table of the original and the compact models of all approaches.

    If the original was trained on, the ratios to that model are in it, too.
    """
    original, longer = metrics["original"], metrics.get("trained_on")
    header = ["", "test loss / original", *(["/ trained on"] if longer else [])]
    header += ["test PSNR/dB", "test SSIM", "parameters", "MACs"]
    found = {"original": original, **({"original, trained on": longer} if longer else {})}
    found |= {name: row["steps"][-1]["compact"] for name, row in metrics["approaches"].items()}
    references = [row["test_loss"] for row in (original, longer) if row]
    rows = [_compared(name, row, references) for name, row in found.items()]
    epochs = {
        f"{a['blend_epochs']} + {a['finetune_epochs']}" for a in metrics["approaches"].values()
    }
    return (
        f"{_aligned([header, *rows])}\n{', '.join(epochs)} epochs each, to blend and to fine-tune"
    )


def _compared(name: str, row: dict[str, Any], references: Sequence[float]) -> list[str]:
    ratios = [f"{row['test_loss'] / reference:.4f}" for reference in references]
    quality = [f"{row['test_psnr']:.2f}", f"{row['test_ssim']:.4f}"]
    return [name, *ratios, *quality, f"{row['parameters']:,}", f"{row['macs']:,}"]


def _cells(row: dict[str, Any]) -> list[str]:
    """Returns the numbers of one model; where none was measured, a dash."""
    return [_cell(name, row[name]) if name in row else "–" for name in _COLUMNS]


def _cell(name: str, value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if name.endswith("psnr") else f"{value:.4f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])],
        ).rstrip()
        for row in rows
    )


def plot_reconstructions(
    original: keras.Model, folder: Path, data: AutoencoderData, path: Path, name: str
) -> None:
    """Draws some validation and test crops, a row each, beside what the models make of them.

    Args:
        original: The model before pruning.
        folder: The folder of `kbp.prune` that has the branched and the compact model.
        data: Has the photos.
        path: The picture to write.
        name: What was pruned.
    """
    branched, merged = before_and_after_multiplication(folder)
    models = {
        "reconstructed\nbefore pruning": original,
        "after pruning, α = 0,\nbefore multiplication": branched,
        "after multiplication": merged,
        "after fine-tuning": kbp.load_model(folder / "compact.keras", compile=False),
    }
    examples = data.examples()
    crops = np.stack(list(examples.values()))
    images = {title: model.predict(crops, verbose=0) for title, model in models.items()}
    columns = {"original crop": crops, **images}
    figure = FigureCanvasAgg(
        Figure(figsize=(2.1 * len(columns) + 0.4, 2.2 * len(crops) + 0.9), layout="constrained")
    ).figure
    figure.suptitle(f"pruned: {name.replace('_', ' ')}")
    axes = figure.subplots(len(crops), len(columns), squeeze=False)
    for column, (title, shown) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize=9)
        for row, label in enumerate(examples):
            _draw(axes[row, column], shown[row], crops[row], label if column == 0 else None)
    with kbp.atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw(axes: Any, image: np.ndarray, truth: np.ndarray, label: str | None) -> None:
    """Draws one picture: below the crop its label, below a reconstruction its distance."""
    axes.imshow(image, vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    if label is None:
        error = float(np.mean(np.square(image - truth)))
        label = f"PSNR {-10 * np.log10(max(error, 1e-12)):.1f} dB"
    axes.set_xlabel(label, fontsize=8)
