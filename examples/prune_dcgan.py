"""Prunes the generator of a DCGAN, and asks how far its images are from real ones.

    python examples/prune_dcgan.py
    python examples/prune_dcgan.py --output_dir=runs/fashion_gan --dataset=fashion_mnist

A GAN is trained; its generator is planned and fitted on noise, blended into a narrow branch while
it goes on playing against its discriminator and learns from its former self, merged, and trained
on. The control is the same narrow generator with a fresh discriminator, trained from scratch for as
many epochs as all of that took, the training of the original included, or for --scratch_epochs. The
measure is the Fréchet distance in the features of a classifier of the same data: smaller is better.

Interrupted at any moment and called again with the same flags, it continues where it was. In the
output folder are then a folder for every stage with generator, discriminator and history, the
classifier, plan.json, the SavedModel of the compact generator, metrics.json, table.txt and
samples.png, in which every column is made of the same noise.
"""

from __future__ import annotations

from collections.abc import Mapping

import dcgan_flags
import keras
import numpy as np
import training
from absl import app, flags, logging
from augmentation import EpochNumber, augment
from dcgan_flags import alpha_callback, epochs_to_zero, settings
from exactness import largest_difference
from gan_quality import (
    FrechetJudge,
    applied,
    save_grid,
    small_classifier,
    standard_normal,
    unit_range,
)
from gan_stages import Stage, Training
from image_data import ImageData, Split, load_images

import keras_branch_prune as kbp
from keras_branch_prune.zoo import dcgan_discriminator, dcgan_generator

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(dcgan_flags)

GENERATOR, DISCRIMINATOR = (256, 128, 64), (64, 128)
CLASSIFIER_RATE = 0.02
# How far the merged generator may be from the branched one; images are in [−1, 1].
TOLERANCE = 1e-5
GRID_COLUMNS = 12
# No noise that training or calibration has seen.
GRID_SEED = 12_345


def main(_: list[str]) -> None:
    """Does all that is not done yet, and reports."""
    logging.set_verbosity(logging.WARNING)
    epochs_to_zero()  # Flags that it refuses are refused before anything is trained.
    run = kbp.RunFolder(FLAGS.output_dir, settings())
    data = load_images(
        FLAGS.dataset,
        FLAGS.data_dir,
        FLAGS.seed,
        FLAGS.image_size,
        fashion_mnist_dir=FLAGS.fashion_mnist_dir,
    )
    train = Split(data.train.images[: FLAGS.images], data.train.labels[: FLAGS.images])
    classifier = trained_classifier(run, data, train)
    shared = Training(
        run,
        2 * train.images - 1,
        standard_normal(FLAGS.calibration, FLAGS.noise, FLAGS.seed),
        FLAGS.batch_size,
        FLAGS.learning_rate,
        FLAGS.distillation,
        FLAGS.seed,
    )
    generators, discriminators = trained_models(shared, data)
    kbp.export_saved_model(generators["compact"], run.path("compact_saved_model"))
    save_samples(run, generators, data)
    metrics = judged(classifier, data, generators)
    metrics["merge_error"] = largest_difference(
        generators["branched"], generators["merged"], shared.noise[:256]
    )
    metrics["discriminators"] = {
        name: model.count_params() for name, model in discriminators.items()
    }
    table = as_table(metrics, data)
    run.write_json("metrics.json", metrics)
    run.write_text("table.txt", table + "\n")
    print(f"\n{table}\n\nEverything is in '{run.root}'.")


def trained_classifier(run: kbp.RunFolder, data: ImageData, train: Split) -> keras.Model:
    """Returns the classifier in whose features images are compared."""
    clock = EpochNumber()
    batches = augment(
        train.images, train.labels, FLAGS.batch_size, FLAGS.seed, epoch=clock.variable
    )
    model, _ = training.train_once(
        run,
        "classifier/original",
        lambda: small_classifier(data),
        batches,
        (data.validation.images, data.validation.labels),
        clock,
        epochs=FLAGS.classifier_epochs,
        learning_rate=CLASSIFIER_RATE,
        seed=FLAGS.seed,
    )
    return model


def trained_models(
    shared: Training, data: ImageData
) -> tuple[dict[str, keras.Model], dict[str, keras.Model]]:
    """Trains all stages; returns their generators and the discriminators worth telling, by name."""
    original = shared.stage("original", lambda: new_gan(data), FLAGS.train_epochs)
    branched, merged = blended_generator(shared, original)
    compact = shared.stage(
        "compact",
        lambda: (kbp.merge(branched.generator), branched.discriminator),
        FLAGS.finetune_epochs,
        teacher=original.generator,
    )
    generators = {
        "original": original.generator,
        "branched": branched.generator,
        "merged": merged,
        "compact": compact.generator,
    }
    discriminators = {"original": original.discriminator}
    if FLAGS.prune_discriminator:
        both = pruned_discriminator(shared, original, compact)
        generators["both"], discriminators["both"] = both.generator, both.discriminator
    if FLAGS.scratch:
        epochs = sum(len(stage.history) for stage in (original, branched, compact))
        epochs = FLAGS.scratch_epochs or epochs
        scratch = shared.stage("scratch", lambda: new_narrow_gan(merged, data), epochs)
        generators["scratch"] = scratch.generator
    return generators, discriminators


def new_gan(data: ImageData) -> tuple[keras.Model, keras.Model]:
    """Returns a generator and a discriminator with random weights."""
    generator = dcgan_generator(
        noise=FLAGS.noise, widths=scaled(GENERATOR), image_shape=data.image_shape
    )
    return generator, dcgan_discriminator(
        widths=scaled(DISCRIMINATOR), image_shape=data.image_shape
    )


def new_narrow_gan(merged: keras.Model, data: ImageData) -> tuple[keras.Model, keras.Model]:
    """Returns the pruned generator and the full discriminator, both with random weights."""
    return keras.models.clone_model(merged), new_gan(data)[1]


def scaled(widths: tuple[int, ...]) -> list[int]:
    """Returns numbers of channels as `--width` says."""
    return [max(1, round(FLAGS.width * width)) for width in widths]


def blended_generator(shared: Training, original: Stage) -> tuple[Stage, keras.Model]:
    """Lets a narrow branch take the generator over; returns the stage and the merged generator.

    Raises:
        RuntimeError: If the merged generator makes other images than the branched one.
    """
    plan = generator_plan(shared, original.generator)
    branched = shared.stage(
        "branched",
        lambda: (
            kbp.branch(original.generator, plan, calibration=shared.noise),
            original.discriminator,
        ),
        epochs_to_zero(),
        teacher=original.generator,
        decay=alpha_callback(),
    )
    merged = kbp.merge(branched.generator)
    error = largest_difference(branched.generator, merged, shared.noise[:256])
    if not error <= TOLERANCE:
        raise RuntimeError(f"The merged generator differs from the branched one by {error:g}")
    return branched, merged


def generator_plan(shared: Training, generator: keras.Model) -> kbp.PruningPlan:
    """Returns the plan, which is made once, from noise alone."""
    path = shared.run.path("plan.json")
    if not path.exists():
        kbp.plan(generator, width=FLAGS.keep, calibration=shared.noise, seed=FLAGS.seed).save(path)
    return kbp.PruningPlan.load(path)


def pruned_discriminator(shared: Training, original: Stage, compact: Stage) -> Stage:
    """Prunes the discriminator too, against the compact generator; returns both after training."""
    branched = shared.stage(
        "branched_discriminator",
        lambda: (compact.generator, branched_discriminator(shared, compact)),
        epochs_to_zero(),
        teacher=original.generator,
        decay=alpha_callback(),
    )
    return shared.stage(
        "both",
        lambda: (branched.generator, kbp.merge(branched.discriminator)),
        FLAGS.finetune_epochs,
        teacher=original.generator,
    )


def branched_discriminator(shared: Training, compact: Stage) -> keras.Model:
    """Returns the discriminator with a narrow branch, planned and fitted on what it judges."""
    made = applied(compact.generator, shared.noise)
    # Half of it is generated.
    images = np.concatenate([made, shared.images[: len(made)]])
    plan = kbp.plan(compact.discriminator, width=FLAGS.keep, calibration=images, seed=FLAGS.seed)
    return kbp.branch(compact.discriminator, plan, calibration=images)


def judged(
    classifier: keras.Model, data: ImageData, generators: Mapping[str, keras.Model]
) -> dict[str, dict]:
    """Returns the metrics of the classifier and of all generators."""
    real = {"validation": data.validation, "test": data.test}
    training.compile_classifier(classifier)
    accuracy = {
        name: classifier.evaluate(split.images, split.labels, verbose=0)[1]
        for name, split in real.items()
    }
    judge = FrechetJudge(classifier, real, FLAGS.samples, FLAGS.noise_seeds)
    rows = {
        name: {
            **judge.distances(model),
            "parameters": model.count_params(),
            "macs": kbp.count_macs(model),
        }
        for name, model in generators.items()
    }
    for row in rows.values():
        row["ratio"] = {name: row[name]["mean"] / rows["original"][name]["mean"] for name in real}
    return {"classifier": accuracy, "real": judge.between_real(), "generators": rows}


def as_table(metrics: Mapping[str, dict], data: ImageData) -> str:
    """Returns the metrics as text."""
    accuracy = metrics["classifier"]
    lines = [
        f"Fréchet distance to {data.name} in the features of a classifier of accuracy "
        f"{accuracy['validation']:.4f} on validation, {accuracy['test']:.4f} on test",
        f"{'':>10}  {'validation':>19}  {'test':>19}  {'to original':>11}  parameters        MACs",
    ]
    for name, row in metrics["generators"].items():
        distances = (
            f"{row[split]['mean']:9.3f} ± {row[split]['standard_deviation']:7.3f}"
            for split in ("validation", "test")
        )
        lines.append(
            f"{name:>10}  {'  '.join(distances)}  {row['ratio']['test']:11.3f}  "
            f"{row['parameters']:10,}  {row['macs']:10,}"
        )
    lines.append(f"Real images of validation and of test: {metrics['real']:.3f} apart")
    lines.append(
        f"Largest difference between branched and merged, of [−1, 1]: {metrics['merge_error']:.1e}"
    )
    for name, parameters in metrics["discriminators"].items():
        lines.append(f"Discriminator of '{name}': {parameters:,} parameters")
    return "\n".join(lines)


def save_samples(
    run: kbp.RunFolder, generators: Mapping[str, keras.Model], data: ImageData
) -> None:
    """Draws what all generators make of the same noise, and real images."""
    noise = standard_normal(GRID_COLUMNS, FLAGS.noise, GRID_SEED)
    rows = {name: unit_range(applied(model, noise)) for name, model in generators.items()}
    save_grid({**rows, "real": data.validation.images[:GRID_COLUMNS]}, run.path("samples.png"))


if __name__ == "__main__":
    app.run(main)
