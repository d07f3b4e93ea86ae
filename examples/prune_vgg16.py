"""Prunes VGG16: trains or loads it, blends it into a narrow branch, exports the compact model.

    python examples/prune_vgg16.py
    python examples/prune_vgg16.py --output_dir=runs/fashion --dataset=fashion_mnist --controls
    python examples/prune_vgg16.py --output_dir=runs/folds --folds=5 --macs=0.2 --backtracking

Interrupted at any moment and called again with the same flags, it continues where it was. In the
output folder are then the original, the folder `pruned` of `kbp.prune` with plan, branched and
compact model, the SavedModels, metrics.json, training.png and table.txt; with --folds a folder
`fold_…` of this kind for each fold. With --patience or --backtracking the validation images have a
say in how α falls, so judge by the test images then.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import pruning_flags
import tensorflow as tf
import training
from absl import app, flags, logging
from augmentation import EpochNumber, augment
from cross_validation import Metrics, stratified_folds, summarize
from image_data import ImageData, Split, load_images
from pruning_flags import alpha_callback, plan_options, recipe, settings

import keras_branch_prune as kbp

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(pruning_flags)


def main(_: list[str]) -> None:
    """Does all that is not done yet, and reports."""
    logging.set_verbosity(logging.WARNING)
    recipe(), alpha_callback()  # Flags that they refuse are refused before anything is trained.
    run = kbp.RunFolder(FLAGS.output_dir, settings())
    data = load_images(
        FLAGS.dataset,
        FLAGS.data_dir,
        FLAGS.seed,
        FLAGS.image_size,
        fashion_mnist_dir=FLAGS.fashion_mnist_dir,
    )
    metrics, table = cross_validate(run, data) if FLAGS.folds else one_split(run, data)
    run.write_json("metrics.json", metrics)
    run.write_text("table.txt", table + "\n")
    print(f"\n{table}\n\nEverything is in '{run.root}'.")


def one_split(run: kbp.RunFolder, data: ImageData) -> tuple[dict, str]:
    """Prunes, judges by the test images and measures; returns metrics and a table."""
    original, compact, metrics = compare(run, data, data.test)
    table = "\n".join(
        f"{name:>10}: accuracy {row['val_accuracy']:.4f} on validation, "
        f"{row['test_accuracy']:.4f} on test ({data.name}), {row['parameters']:,} parameters"
        for name, row in metrics.items()
    )
    kbp.export_saved_model(original, run.path("original_saved_model"))
    if not FLAGS.benchmark:
        return metrics, table
    benchmark = kbp.benchmark({"original": original, "compact": compact})
    return {**metrics, "benchmark": benchmark.to_json()}, f"{table}\n\n{benchmark}"


def cross_validate(run: kbp.RunFolder, data: ImageData) -> tuple[dict, str]:
    """Prunes in every fold; returns metrics and a table."""
    found = []
    for number, fold in enumerate(stratified_folds(data, FLAGS.folds, FLAGS.seed), 1):
        print(f"\nFold {number} of {FLAGS.folds}")
        found.append(compare(run, fold, part=f"fold_{number}")[-1])
    summary = summarize(found, "val_accuracy")
    table = "\n".join(
        f"{name:>10}: accuracy {row['mean']:.4f} ± {row['standard_deviation']:.4f} on validation, "
        f"{FLAGS.folds} folds ({data.name})"
        for name, row in summary.items()
    )
    return {"val_accuracy": summary, "folds": found}, table


def compare(
    run: kbp.RunFolder, data: ImageData, test: Split | None = None, *, part: str = "."
) -> tuple[keras.Model, keras.Model, Metrics]:
    """Trains the original, prunes it, and trains the controls if they are asked for.

    Args:
        run: The folder of the run.
        data: Images to train on and to validate on.
        test: Images to test on.
        part: Where in the folder the results go.

    Returns:
        The original, the compact model, and the metrics of all models by name.
    """
    clock = EpochNumber()
    images, labels = data.train.images, data.train.labels
    batches = augment(
        images, labels, FLAGS.batch_size, FLAGS.seed, flip=FLAGS.flip, epoch=clock.variable
    )
    original, history = original_model(run, f"{part}/original", data, batches, clock)
    folder = run.path(part)
    options = {
        "train": batches,
        "validation": (data.validation.images, data.validation.labels),
        "test": (test.images, test.labels) if test else None,
        "compile": training.compile_classifier,
        "callbacks": lambda: [clock],
        "verbose": 2,
    }
    pruned = kbp.prune(
        original,
        output_dir=folder / "pruned",
        alpha=alpha_callback(),
        recipe=recipe(),
        calibration=images[: FLAGS.calibration] if FLAGS.calibration else None,
        **plan_options(),
        **options,
    )
    stages = {"original": history, **pruned.history}
    kbp.plot_training(stages, folder / "training.png")
    metrics = dict(pruned.metrics)
    if FLAGS.controls:
        metrics |= controls(folder, original, pruned, len(history), options)
    return original, pruned.model, metrics


def original_model(
    run: kbp.RunFolder, name: str, data: ImageData, batches: tf.data.Dataset, clock: EpochNumber
) -> tuple[keras.Model, list]:
    """Loads the pretrained model, or trains one; returns it and its history."""
    if FLAGS.pretrained:
        return kbp.load_model(FLAGS.pretrained, compile=False), []
    return training.train_once(
        run,
        name,
        lambda: FLAGS.model.build(
            width=FLAGS.width, input_shape=data.image_shape, classes=data.classes
        ),
        batches,
        (data.validation.images, data.validation.labels),
        clock,
        epochs=FLAGS.train_epochs,
        learning_rate=FLAGS.learning_rate,
        seed=FLAGS.seed,
    )


def controls(
    folder: Path, original: keras.Model, pruned: kbp.PruningResult, epochs: int, options: dict
) -> Metrics:
    """Makes the same compact architecture in other ways, in at least as many epochs.

    Args:
        folder: Where the folders of the controls are made.
        original: The model that was pruned.
        pruned: What became of it.
        epochs: How many epochs the original was trained for.
        options: What all runs share.
    """
    pruning_epochs = sum(map(len, pruned.history.values()))
    per_round = -(-pruning_epochs // FLAGS.rounds)
    options = {**options, "plan": pruned.plan}
    standard = kbp.standard_prune(
        original,
        output_dir=folder / "standard",
        rounds=FLAGS.rounds,
        recipe=dataclasses.replace(recipe(), finetune_epochs=per_round),
        **options,
    )
    scratch = kbp.train_from_scratch(
        original,
        output_dir=folder / "scratch",
        epochs=epochs + pruning_epochs,
        recipe=recipe(),
        **options,
    )
    return {"standard": standard.metrics["compact"], "scratch": scratch.metrics["compact"]}


if __name__ == "__main__":
    app.run(main)
