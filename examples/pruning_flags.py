"""The flags of the pruning example, and what they say in the terms of `kbp.prune`."""

from __future__ import annotations

import sys
from typing import Any

from absl import flags
from image_data import DEBIAN_FASHION_MNIST

import keras_branch_prune as kbp
from keras_branch_prune.zoo import ModelType

FLAGS = flags.FLAGS

# Leaves VGG16 12 % of its parameters and of its multiply-accumulates.
DEFAULT_KEEP = 0.34375

flags.DEFINE_string("dataset", "digits", "digits, fashion_mnist, or a tensorflow-datasets name.")
flags.DEFINE_string("data_dir", "~/tensorflow_datasets", "Folder of tensorflow-datasets.")
flags.DEFINE_string("fashion_mnist_dir", DEBIAN_FASHION_MNIST, "Files of Fashion-MNIST, if there.")
flags.DEFINE_integer("image_size", None, "Height and width of the images, px; none: as they are.")
flags.DEFINE_enum_class("model", ModelType.VGG16, ModelType, "Which classifier to prune.")
flags.DEFINE_float("width", 0.25, "Factor on the number of filters of the original model.")
flags.DEFINE_string("pretrained", None, "A trained .keras model; none: train one first.")
flags.DEFINE_float("keep", None, f"Share of the channels to keep (else {DEFAULT_KEEP}).", 0, 1)
flags.DEFINE_float("prune", None, "Share of the channels to remove, instead of --keep.", 0, 1)
flags.DEFINE_float("macs", None, "Share of the multiply-accumulates to keep, instead.", 0, 1)
flags.DEFINE_float("params", None, "Share of the parameters to keep, instead.", 0, 1)
flags.DEFINE_string("round_to", None, "Round widths to a multiple of this number, or auto.")
flags.DEFINE_string("saliency", None, "Which channels stay; see keras_branch_prune.plan.")
flags.DEFINE_integer("calibration", 1000, "Training images to fit the branch on, or 0 for none.", 0)
flags.DEFINE_bool("refine", False, "Whether to refine the fitted branch by gradient descent.")
flags.DEFINE_enum_class("schedule", kbp.ScheduleType.STEP, kbp.ScheduleType, "How α falls.")
flags.DEFINE_float("schedule_parameter", None, "Step size, rate, factor or steps of the schedule.")
flags.DEFINE_integer("patience", 0, "Epochs without improvement before a step of α; 0: --every.", 0)
flags.DEFINE_integer("every", 1, "Epochs per step of α, unless --patience.", 1)
flags.DEFINE_string("monitor", "val_loss", "Metric that --patience watches.")
flags.DEFINE_bool("backtracking", False, "Instead of --schedule: take steps back that cost much.")
flags.DEFINE_float("max_drop", 0.02, "Validation accuracy that --backtracking may cost.", 0, 1)
flags.DEFINE_bool("train_original", True, "Whether the original's weights are trained on too.")
flags.DEFINE_float("distillation", 0.0, "Share of the loss: distance to the original.", 0, 1)
flags.DEFINE_float("temperature", 4.0, "Temperature of the distillation.")
flags.DEFINE_float("matching", 0.0, "Weight of the distance between the branches.", 0)
flags.DEFINE_integer("train_epochs", 15, "Epochs for the original model.", 1)
flags.DEFINE_integer("blend_epochs", 200, "Most epochs until α must be 0.", 1)
flags.DEFINE_integer("finetune_epochs", 10, "Epochs for the compact model.", 0)
flags.DEFINE_float("learning_rate", 0.05, "Initial learning rate of original and compact model.")
flags.DEFINE_float("blend_learning_rate", None, "Learning rate while α falls; none: a fifth.")
flags.DEFINE_integer("batch_size", 64, "Images per training step.", 1)
flags.DEFINE_bool("flip", False, "Whether to mirror training images at random.")
flags.DEFINE_integer("seed", 0, "Seed of weights, order, augmentation and validation split.", 0)
flags.DEFINE_bool("controls", False, "Also prune in rounds without blending, and from scratch.")
flags.DEFINE_integer("rounds", 5, "Rounds of the pruning without blending.", 1)
flags.DEFINE_integer("folds", None, "Cross-validate in so many folds, without test images.", 2)
flags.DEFINE_string("output_dir", "runs/prune_vgg16", "Where results go.")
flags.DEFINE_bool("benchmark", True, "Whether to measure latency and memory, unless --folds.")
flags.mark_flags_as_mutual_exclusive(["keep", "prune", "macs", "params"])
# A pretrained model has seen the images that a fold validates on.
flags.mark_flags_as_mutual_exclusive(["pretrained", "folds"])

flags.register_validator(
    "model", lambda model: model is ModelType.VGG16, "The only classifier of the zoo is vgg16."
)

_NOT_SETTINGS = {
    *("output_dir", "data_dir", "fashion_mnist_dir"),
    *("controls", "rounds", "benchmark"),
}


def settings() -> dict[str, str]:
    """Returns the flags that the results depend on."""
    own = FLAGS.get_key_flags_for_module(sys.modules[__name__])
    return {flag.name: flag.serialize() for flag in own if flag.name not in _NOT_SETTINGS}


def plan_options() -> dict[str, Any]:
    """Returns how small the compact model is to be and which channels stay, as `plan` takes it."""
    round_to = FLAGS.round_to
    if round_to and round_to.isdigit():
        round_to = int(round_to)
    return {**_target(), "round_to": round_to, "saliency": FLAGS.saliency}


def _target() -> dict[str, float]:
    for name in ("macs", "params"):
        if FLAGS[name].value is not None:
            return {name: FLAGS[name].value}
    if FLAGS.prune is not None:
        return {"width": 1 - FLAGS.prune}
    return {"width": DEFAULT_KEEP if FLAGS.keep is None else FLAGS.keep}


def recipe() -> kbp.Recipe:
    """Returns how the flags say to train."""
    return kbp.Recipe(
        blend_epochs=FLAGS.blend_epochs,
        finetune_epochs=FLAGS.finetune_epochs,
        learning_rate=FLAGS.learning_rate,
        blend_learning_rate=FLAGS.blend_learning_rate,
        calibration_samples=FLAGS.calibration,
        refine=FLAGS.refine,
        train_original=FLAGS.train_original,
        distillation=FLAGS.distillation,
        temperature=FLAGS.temperature,
        matching=FLAGS.matching,
        batch_size=FLAGS.batch_size,
        seed=FLAGS.seed,
    )


def alpha_callback() -> kbp.AlphaCallback | kbp.AlphaBacktracking:
    """Returns the callback that the flags ask for, a new one for every run."""
    if FLAGS.backtracking:
        step, patience = FLAGS.schedule_parameter or 0.1, FLAGS.patience or 3
        return kbp.AlphaBacktracking(step, max_drop=FLAGS.max_drop, patience=patience, verbose=1)
    when = {"monitor": FLAGS.monitor, "patience": FLAGS.patience}
    if not FLAGS.patience:
        when = {"every": FLAGS.every, "monitor": None}
    return kbp.make_alpha_callback(FLAGS.schedule, FLAGS.schedule_parameter, verbose=1, **when)
