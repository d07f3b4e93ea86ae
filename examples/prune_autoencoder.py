"""Prunes an RGB autoencoder: its encoder, its decoder, or both, at once or one after the other.

    python examples/prune_autoencoder.py
    python examples/prune_autoencoder.py --prune=all --output_dir=runs/all
    python examples/prune_autoencoder.py --skips --dataset=~/Pictures --output_dir=runs/skips

The autoencoder is trained on random crops of photos, of which none is in two of the splits. Its
full size is --widths=64,128,128. Interrupted at any moment and called again with the same flags, it
continues where it was; other approaches (--prune) can be added to a folder.

In the output folder are then the original, metrics.json and table.txt, and for each approach a
folder of `kbp.prune` with plan, branched and compact model, and two pictures: `….training.png` and
`….png`, crops beside what the models make of them. `encoder_then_decoder` has two such folders, and
half of the epochs for each, so that all approaches are trained equally long. --control trains the
original on for as many epochs, for part of what a pruned model gains is not owed to pruning. The
original and every model that came of it are evaluated on the test crops once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import autoencoder_flags
import keras
import training
from absl import app, flags, logging
from augmentation import EpochNumber
from autoencoder_data import AutoencoderData
from autoencoder_flags import APPROACHES, alpha_callback, approaches, recipe, settings
from autoencoder_report import comparison, plot_reconstructions, tables
from image_quality import compile_autoencoder
from pruned_autoencoder import measured, measured_steps

import keras_branch_prune as kbp

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(autoencoder_flags)


def main(_: list[str]) -> None:
    """Does all that is not done yet, and reports."""
    logging.set_verbosity(logging.WARNING)
    recipe()  # Flags that it refuses are refused before anything is trained.
    data = AutoencoderData.load(
        FLAGS.dataset,
        Path(FLAGS.data_dir).expanduser(),
        crop_size=FLAGS.crop_size,
        crops=FLAGS.crops,
        evaluation_crops=FLAGS.evaluation_crops,
        batch_size=FLAGS.batch_size,
        seed=FLAGS.seed,
        recolour=FLAGS.skips if FLAGS.recolour is None else FLAGS.recolour,
    )
    run = kbp.RunFolder(FLAGS.output_dir, settings())
    original, history = original_model(run, data)
    models = {"original": original}
    for name in approaches():
        models[name] = prune_approach(run, name, original, history, data)
    if FLAGS.control:
        train_on(run, data)
    report(run, models)


def original_model(run: kbp.RunFolder, data: AutoencoderData) -> tuple[keras.Model, list]:
    """Trains the original and evaluates it, unless that was done; returns it and its history."""
    original, history = train_once(
        run,
        "original",
        lambda: kbp.zoo.rgb_autoencoder(
            widths=[int(width) for width in FLAGS.widths],
            input_shape=(FLAGS.crop_size, FLAGS.crop_size, 3),
            skips=FLAGS.skips,
        ),
        FLAGS.train_epochs,
        data,
    )
    run.once("original.json", lambda: measured(original, data, test=True))
    return original, history


def train_on(run: kbp.RunFolder, data: AutoencoderData) -> None:
    """Trains the original on for as long as pruning takes, and evaluates it, unless that is done.

    It starts with the learning rate that it was trained with at first.
    """
    model, _ = train_once(
        run,
        "trained_on/original",
        lambda: run.load("original"),
        FLAGS.blend_epochs + FLAGS.finetune_epochs,
        data,
    )
    run.once("trained_on.json", lambda: measured(model, data, test=True))


def train_once(
    run: kbp.RunFolder,
    name: str,
    build: Callable[[], keras.Model],
    epochs: int,
    data: AutoencoderData,
) -> tuple[keras.Model, list]:
    """Trains what `build` returns, unless that was done; returns it and its history."""
    clock = EpochNumber()
    return training.train_once(
        run,
        name,
        build,
        data.batches(clock),
        data.validation,
        clock,
        epochs=epochs,
        learning_rate=FLAGS.learning_rate,
        seed=FLAGS.seed,
        compile=compile_autoencoder,
    )


def prune_approach(
    run: kbp.RunFolder, name: str, original: keras.Model, history: list, data: AutoencoderData
) -> keras.Model:
    """Prunes in one way, evaluates and draws; returns the compact model."""
    print(f"\nPruning: {name}")
    scopes = APPROACHES[name]
    results: list[kbp.PruningResult] = []
    stages = {"original": history}
    for step, scope in enumerate(scopes):
        model = results[-1].model if results else original
        where = run.path(f"{name}/{scope[0]}" if len(scopes) > 1 else name)
        results.append(prune(model, where, scope, recipe(step, len(scopes)), data))
        stages |= {f"{s} {step + 1}": rows for s, rows in results[-1].history.items()}
    kbp.plot_training(stages, run.path(f"{name}.training.png"), metric="loss")
    run.once(f"{name}.json", lambda: measured_steps(results, scopes, data))
    plot_reconstructions(original, results[-1].folder, data, run.path(f"{name}.png"), name)
    return results[-1].model


def prune(
    model: keras.Model,
    folder: Path,
    scope: tuple[str, ...],
    recipe: kbp.Recipe,
    data: AutoencoderData,
) -> kbp.PruningResult:
    """Prunes some of the nested models, without a look at the test crops."""
    clock = EpochNumber()
    batches = data.batches(clock)
    return kbp.prune(
        model,
        batches,
        data.validation,
        output_dir=folder,
        alpha=alpha_callback(recipe.blend_epochs, int(batches.cardinality())),
        recipe=recipe,
        compile=compile_autoencoder,
        callbacks=lambda: [clock],
        verbose=2,
        width=FLAGS.keep,
        scope=list(scope),
    )


def report(run: kbp.RunFolder, models: dict[str, keras.Model]) -> None:
    """Writes and prints what is known of all approaches in the folder."""
    found = {name: run.read_json(f"{name}.json") for name in APPROACHES}
    metrics = {
        "original": run.read_json("original.json"),
        "approaches": {name: row for name, row in found.items() if row},
    }
    if trained_on := run.read_json("trained_on.json"):
        metrics["trained_on"] = trained_on
    text = f"{tables(metrics)}\n\n{comparison(metrics)}"
    if FLAGS.benchmark:
        benchmark = kbp.benchmark(models)
        metrics["benchmark"] = benchmark.to_json()
        text += f"\n\n{benchmark}"
    run.write_json("metrics.json", metrics)
    run.write_text("table.txt", text + "\n")
    print(f"\n{text}\n\nEverything is in '{run.root}'.")


if __name__ == "__main__":
    app.run(main)
