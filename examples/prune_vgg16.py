"""Prunes VGG16: trains or loads it, blends it into a narrow branch, exports the compact model.

    python examples/prune_vgg16.py
    python examples/prune_vgg16.py --output_dir=runs/fashion --dataset=fashion_mnist --scratch

Interrupted at any moment and called again with the same flags, it continues where it was. In the
output folder are then the models (original, branched, compact; `.keras` and SavedModels), the plan,
metrics.json, training.png and table.txt.
"""

from __future__ import annotations

import functools
import sys

import keras
import training
from absl import app, flags, logging
from image_data import DEBIAN_FASHION_MNIST, ImageData, load_images

import keras_branch_prune as kbp
from keras_branch_prune.zoo import ModelType

FLAGS = flags.FLAGS

flags.DEFINE_string("dataset", "digits", "digits, fashion_mnist, or a tensorflow-datasets name.")
flags.DEFINE_string("data_dir", "~/tensorflow_datasets", "Folder of tensorflow-datasets.")
flags.DEFINE_string("fashion_mnist_dir", DEBIAN_FASHION_MNIST, "Files of Fashion-MNIST, if there.")
flags.DEFINE_integer("image_size", None, "Height and width of the images, px; none: as they are.")
flags.DEFINE_enum_class("model", ModelType.VGG16, ModelType, "Which model to prune.")
flags.DEFINE_float("width", 0.25, "Factor on the number of filters of the original model.")
flags.DEFINE_string("pretrained", None, "A trained .keras model; none: train one first.")
flags.DEFINE_float("keep", 0.34375, "Share of the channels to keep.", 0, 1)
flags.DEFINE_float("prune", None, "Share of the channels to remove, instead of --keep.", 0, 1)
flags.DEFINE_string("round_to", None, "Round widths to a multiple of this number, or auto.")
flags.DEFINE_integer("calibration", 1000, "Training images to fit the branch on, or 0 for none.", 0)
flags.DEFINE_string("saliency", None, "Which channels stay; see keras_branch_prune.plan.")
flags.DEFINE_bool("refine", False, "Whether to refine the fitted branch by gradient descent.")
flags.DEFINE_enum_class("schedule", kbp.ScheduleType.STEP, kbp.ScheduleType, "How α falls.")
flags.DEFINE_float("schedule_parameter", None, "Step size, rate, factor or steps of the schedule.")
flags.DEFINE_integer("patience", 0, "Epochs without improvement before a step of α; 0: --every.")
flags.DEFINE_integer("every", 1, "Epochs per step of α, unless --patience.")
flags.DEFINE_string("monitor", "val_loss", "Metric that --patience watches.")
flags.DEFINE_bool("train_original", True, "Whether the original's weights are trained on too.")
flags.DEFINE_integer("train_epochs", 15, "Epochs for the original model.")
flags.DEFINE_integer("blend_epochs", 200, "Most epochs until α must be 0.")
flags.DEFINE_integer("finetune_epochs", 10, "Epochs for the compact model.")
flags.DEFINE_bool("scratch", False, "Also train the compact model from scratch, as a control.")
flags.DEFINE_float("learning_rate", 0.05, "Initial learning rate of original and compact model.")
flags.DEFINE_float("blend_learning_rate", 0.01, "Learning rate while α falls.")
flags.DEFINE_integer("batch_size", 64, "Images per training step.")
flags.DEFINE_bool("flip", False, "Whether to mirror training images at random.")
flags.DEFINE_integer("seed", 0, "Seed of weights, order, augmentation and validation split.")
flags.DEFINE_string("output_dir", "runs/prune_vgg16", "Where results go.")
flags.DEFINE_bool("benchmark", True, "Whether to measure latency and memory at the end.")

STAGES = ("original", "branched", "compact")
_NOT_SETTINGS = {
    *("output_dir", "data_dir", "fashion_mnist_dir"),
    *("blend_epochs", "scratch", "benchmark"),
}


def main(_: list[str]) -> None:
    """Runs all stages; those that are done already are loaded."""
    logging.set_verbosity(logging.WARNING)
    keras.utils.set_random_seed(FLAGS.seed)
    run = training.Run(FLAGS.output_dir, settings())
    data = load_images(
        FLAGS.dataset,
        FLAGS.data_dir,
        FLAGS.seed,
        FLAGS.image_size,
        fashion_mnist_dir=FLAGS.fashion_mnist_dir,
    )
    original = run.stage("original", lambda backup: train_original(data, backup))
    branched = run.stage("branched", lambda backup: blend(run, original, data, backup))
    compact = run.stage("compact", lambda backup: finetune(branched, data, backup))
    models = {"original": original, "compact": compact}
    if FLAGS.scratch:
        train = functools.partial(from_scratch, run, compact, data)
        models["scratch"] = run.stage("scratch", train)
    report(run, models, data)


def settings() -> dict[str, str]:
    """Returns the flags that the results depend on."""
    own = FLAGS.get_key_flags_for_module(sys.modules[__name__])
    return {flag.name: flag.serialize() for flag in own if flag.name not in _NOT_SETTINGS}


def options() -> dict:
    """Returns the training options that all stages share."""
    return {"seed": FLAGS.seed, "batch_size": FLAGS.batch_size, "flip": FLAGS.flip}


def train_original(data: ImageData, backup: kbp.EpochBackup) -> keras.Model:
    """Loads the pretrained model, or trains one."""
    if FLAGS.pretrained:
        return kbp.load_model(FLAGS.pretrained, compile=False)
    model = FLAGS.model.build(width=FLAGS.width, input_shape=data.image_shape, classes=data.classes)
    return training.fit(
        model,
        data,
        backup,
        epochs=FLAGS.train_epochs,
        learning_rate=FLAGS.learning_rate,
        **options(),
    )


def blend(
    run: training.Run, original: keras.Model, data: ImageData, backup: kbp.EpochBackup
) -> keras.Model:
    """Lets α fall from 1 to 0 while the branched model is trained."""
    branched = start(run, original, data)
    training.fit(
        branched,
        data,
        backup,
        epochs=FLAGS.blend_epochs,
        learning_rate=FLAGS.blend_learning_rate,
        decay=False,
        callbacks=[alpha_callback(), kbp.StopAtAlphaZero()],
        finished=lambda model: kbp.get_alpha(model) == 0,
        **options(),
    )
    if kbp.get_alpha(branched) > 0:
        raise app.UsageError(
            f"α is still {kbp.get_alpha(branched)} after --blend_epochs={FLAGS.blend_epochs}: "
            "allow more epochs, or let α fall faster."
        )
    return branched


def start(run: training.Run, original: keras.Model, data: ImageData) -> keras.Model:
    """Plans, and fits the pruned branch to the original on training images, without labels."""
    keep = FLAGS.keep if FLAGS.prune is None else 1 - FLAGS.prune
    images = data.train.images[: FLAGS.calibration] if FLAGS.calibration else None
    plan = kbp.plan(
        original,
        width=keep,
        round_to=round_to(),
        saliency=FLAGS.saliency,
        calibration=images,
        seed=FLAGS.seed,
    )
    plan.save(run.path("plan.json"))
    print(plan)
    branched = kbp.branch(original, plan, calibration=images, train_original=FLAGS.train_original)
    if FLAGS.refine:
        kbp.refine(branched, images, seed=FLAGS.seed)
    return branched


def round_to() -> int | str | None:
    """Returns the flag as `plan` takes it."""
    text = FLAGS.round_to
    return int(text) if text and text.isdigit() else text


def alpha_callback() -> kbp.AlphaCallback:
    """Returns the callback that the flags ask for."""
    when = {"monitor": FLAGS.monitor, "patience": FLAGS.patience}
    if not FLAGS.patience:
        when = {"every": FLAGS.every, "monitor": None}
    return kbp.make_alpha_callback(FLAGS.schedule, FLAGS.schedule_parameter, verbose=1, **when)


def finetune(branched: keras.Model, data: ImageData, backup: kbp.EpochBackup) -> keras.Model:
    """Merges the branched model and trains the compact model on."""
    return training.fit(
        kbp.merge(branched),
        data,
        backup,
        epochs=FLAGS.finetune_epochs,
        learning_rate=FLAGS.learning_rate,
        **options(),
    )


def from_scratch(
    run: training.Run, compact: keras.Model, data: ImageData, backup: kbp.EpochBackup
) -> keras.Model:
    """Trains the compact architecture from random weights, for as many epochs as all stages had."""
    return training.fit(
        keras.models.clone_model(compact),
        data,
        backup,
        epochs=sum(len(run.history(stage)) for stage in STAGES),
        learning_rate=FLAGS.learning_rate,
        **options(),
    )


def report(run: training.Run, models: dict[str, keras.Model], data: ImageData) -> None:
    """Exports and measures the models; writes metrics.json, table.txt and training.png."""
    metrics: dict[str, dict] = {}
    for name, model in models.items():
        validation, test = training.accuracies(model, [data.validation, data.test])
        metrics[name] = {
            "parameters": kbp.count_parameters(model),
            "macs": kbp.count_macs(model),
            "validation_accuracy": validation,
            "test_accuracy": test,
        }
    table = "\n".join(
        f"{name:>9}: accuracy {values['validation_accuracy']:.4f} on validation, "
        f"{values['test_accuracy']:.4f} on test ({data.name})"
        for name, values in metrics.items()
    )
    pair = {name: models[name] for name in ("original", "compact")}
    for name, model in pair.items():
        kbp.export_saved_model(model, run.path(f"{name}_saved_model"))
    if FLAGS.benchmark:
        result = kbp.benchmark(pair)
        metrics["benchmark"] = result.to_json()
        table += f"\n\n{result}"
    run.write_json("metrics.json", metrics)
    with kbp.atomic_write(run.path("table.txt")) as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    kbp.plot_training({name: run.history(name) for name in STAGES}, run.path("training.png"))
    print(f"\n{table}\n\nEverything is in '{run.folder}'.")


if __name__ == "__main__":
    app.run(main)
