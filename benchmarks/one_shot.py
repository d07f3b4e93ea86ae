"""Compares criteria and reconstructions: accuracy at α = 0 without any training on labels.

    python benchmarks/one_shot.py --model=vgg16.keras --output=docs/results/measured/one_shot.json

The model must be a trained classifier of Fashion-MNIST images `(28, 28, 1)` in [0, 1]; calibration
images are drawn from the 55,000 images of the training set that it may have been trained on, and
accuracies are those on the other 5,000 (`numpy.random.default_rng(42).permutation(60000)`). The
test set is not touched. Results are kept one by one, so that an interrupted run continues; a table
and a picture are written beside them.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags
from fashion_mnist import FOLDER, Split, load_training_data
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import keras_branch_prune as kbp
from keras_branch_prune.saliency import SALIENCIES

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "Trained model, a .keras file.", required=True)
flags.DEFINE_string("data", FOLDER, "Folder of the four .gz files.")
flags.DEFINE_string("output", "runs/one_shot.json", "JSON file of results.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the calibration images.")
flags.DEFINE_integer("samples", 2000, "Number of calibration images.")
flags.DEFINE_list("targets", ["width=0.5", "width=0.34375"], "Targets of the plans.")
flags.DEFINE_list("allocations", ["uniform"], "Of uniform and global; for budgets.")
flags.DEFINE_list("criteria", ["l1", "interpolative", "output_error"], "Saliency criteria.")
flags.DEFINE_list("reconstructions", ["none", "statistics", "expand", "full"], "See the script.")

_FITTINGS = {
    "none": kbp.Fitting(expand=False, reduce=False, statistics=False),
    "statistics": kbp.Fitting(expand=False, reduce=False),
    "expand": kbp.Fitting(reduce=False),
    "full": kbp.Fitting(),
    "refined": kbp.Fitting(),
}


def make_plan(model: keras.Model, images: np.ndarray, labels: np.ndarray, case: dict) -> Any:
    """Returns the plan of a case, which does not depend on its reconstruction."""
    target, value = case["target"].split("=")
    options = {target: float(value), "saliency": case["criterion"], "seed": case["seed"]}
    if target != "width":
        options["allocation"] = case["allocation"]
    needs = SALIENCIES[case["criterion"]].needs
    if needs != "weights" or case["allocation"] == "global":
        options["calibration"] = (images, labels)
    if needs == "loss":
        options["loss"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return kbp.plan(model, **options)


def run(model: keras.Model, plan: Any, images: np.ndarray, case: dict) -> keras.Model:
    """Returns the model pruned by a plan and reconstructed from images."""
    branched = kbp.branch(model, plan)
    kbp.reconstruct(branched, images, _FITTINGS[case["reconstruction"]])
    if case["reconstruction"] == "refined":
        kbp.refine(branched, images, seed=case["seed"])
    kbp.set_alpha(branched, 0)
    return kbp.merge(branched)


def judged(model: keras.Model, compact: keras.Model, data: Split, case: dict) -> dict:
    """Returns a case with the accuracy of the compact model and what is left of the original."""
    validation, truth = data
    predicted = compact.predict(validation, batch_size=250, verbose=0).argmax(axis=-1)
    return {
        **case,
        "accuracy": float((predicted == truth).mean() * 100),
        "parameters": compact.count_params() / model.count_params(),
        "macs": kbp.count_macs(compact) / kbp.count_macs(model),
    }


def as_markdown(results: list[dict]) -> str:
    """Returns mean and spread of every case as a Markdown table."""
    lines = [
        "| target | allocation | criterion | reconstruction | accuracy, % (mean ± std) | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for key, values in grouped(results).items():
        mean, spread = np.mean(values), np.std(values, ddof=1) if len(values) > 1 else 0.0
        lines.append(f"| {' | '.join(key)} | {mean:.2f} ± {spread:.2f} | {len(values)} |")
    return "\n".join(lines) + "\n"


def grouped(results: list[dict]) -> dict[tuple[str, str, str, str], list[float]]:
    """Returns the accuracies of all seeds by target, allocation, criterion and reconstruction."""
    found: dict[tuple[str, str, str, str], list[float]] = {}
    for result in results:
        names = ("target", "allocation", "criterion", "reconstruction")
        found.setdefault(tuple(result[name] for name in names), []).append(result["accuracy"])
    return dict(sorted(found.items()))


def draw(results: list[dict], path: Path) -> None:
    """Draws the accuracies as bars: a panel per target, a group per criterion."""
    cases = grouped(results)
    targets = sorted({key[0] for key in cases})
    figure = Figure(figsize=(9, 3.2 * len(targets)), layout="constrained")
    panels = figure.subplots(len(targets), squeeze=False)[:, 0]
    for axes, target in zip(panels, targets, strict=True):
        here = {key[1:]: values for key, values in cases.items() if key[0] == target}
        labels = sorted({key[:2] for key in here}, key=lambda key: (key[0], key[1]))
        ways = [way for way in _FITTINGS if any(key[2] == way for key in here)]
        for offset, way in enumerate(ways):
            means = [np.mean(here.get((*label, way), [np.nan])) for label in labels]
            at = np.arange(len(labels)) + (offset - (len(ways) - 1) / 2) / (len(ways) + 1)
            axes.bar(at, means, width=1 / (len(ways) + 1), label=way)
        ticks = [c if a == "uniform" else f"{c}\n({a})" for a, c in labels]
        axes.set_xticks(range(len(labels)), ticks, fontsize=8)
        axes.set(ylabel="accuracy, %", title=target, ylim=(0, 100))
        axes.grid(axis="y", alpha=0.3)
    bars = panels[0].get_legend_handles_labels()
    figure.legend(*bars, loc="outside upper center", fontsize=8, ncols=5)
    FigureCanvasAgg(figure).print_figure(path, dpi=150)


def main(_: list[str]) -> None:
    """Runs the cases that have no result yet and writes all."""
    path = Path(FLAGS.output)
    train, validation = load_training_data(FLAGS.data)
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    model = kbp.load_model(FLAGS.model)
    axes = (FLAGS.targets, FLAGS.allocations, FLAGS.criteria, FLAGS.seeds)
    for target, allocation, criterion, seed in itertools.product(*axes):
        case = {"target": target, "allocation": allocation, "criterion": criterion}
        case["seed"] = int(seed)
        cases = [case | {"reconstruction": name} for name in FLAGS.reconstructions]
        missing = [case for case in cases if not any(case.items() <= r.items() for r in results)]
        if not missing:
            continue
        chosen = np.random.default_rng(int(seed)).permutation(len(train[0]))[: FLAGS.samples]
        images, labels = train[0][chosen], train[1][chosen]
        plan = make_plan(model, images, labels, case)
        for case in missing:
            results.append(judged(model, run(model, plan, images, case), validation, case))
            print(*case.values(), f"{results[-1]['accuracy']:.2f} %", flush=True)
            with kbp.atomic_write(path) as temporary:
                temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        keras.backend.clear_session()
    with kbp.atomic_write(path.with_suffix(".md")) as temporary:
        temporary.write_text(as_markdown(results), encoding="utf-8")
    draw(results, path.with_suffix(".png"))
    print(as_markdown(results))


if __name__ == "__main__":
    app.run(main)
