"""The flags of the example that prunes a DCGAN, and what they say of α."""

from __future__ import annotations

import sys

from absl import flags
from image_data import DEBIAN_FASHION_MNIST

import keras_branch_prune as kbp

FLAGS = flags.FLAGS

flags.DEFINE_string("dataset", "digits", "digits, fashion_mnist, or a tensorflow-datasets name.")
flags.DEFINE_string("data_dir", "~/tensorflow_datasets", "Folder of tensorflow-datasets.")
flags.DEFINE_string("fashion_mnist_dir", DEBIAN_FASHION_MNIST, "Files of Fashion-MNIST, if there.")
flags.DEFINE_integer("image_size", None, "Height and width of the images, px; none: as they are.")
flags.DEFINE_integer("images", 20_000, "How many training images are used, at most.", 1)
flags.DEFINE_float("width", 0.5, "Factor on the channels of generator and discriminator.", 0)
flags.DEFINE_integer("noise", 100, "Random numbers that an image is made of.", 1)
flags.DEFINE_float("keep", 0.34375, "Share of the channels to keep.", 0, 1)
flags.DEFINE_integer("calibration", 2000, "Samples of noise to fit the branch on.", 1)
flags.DEFINE_enum_class("schedule", kbp.ScheduleType.LINEAR, kbp.ScheduleType, "How α falls.")
flags.DEFINE_float("schedule_parameter", None, "Step size, rate, factor or steps of the schedule.")
flags.DEFINE_float("distillation", 10.0, "Weight of the distance to the original's images.", 0)
flags.DEFINE_integer("classifier_epochs", 5, "Epochs for the classifier that judges.", 1)
flags.DEFINE_integer("train_epochs", 20, "Epochs for the original GAN.", 1)
flags.DEFINE_integer("blend_epochs", 10, "Most epochs until α is 0.", 1)
flags.DEFINE_integer("finetune_epochs", 10, "Epochs for the merged generator.", 1)
flags.DEFINE_float("learning_rate", 4e-4, "Learning rate of Adam, for both models of a GAN.")
flags.DEFINE_integer("batch_size", 64, "Images per training step.", 2)
flags.DEFINE_bool("prune_discriminator", False, "Whether to prune the discriminator afterwards.")
flags.DEFINE_bool("scratch", True, "Whether to train the narrow generator from scratch, too.")
flags.DEFINE_integer("scratch_epochs", None, "How long; none: as long as all else together.", 1)
flags.DEFINE_integer("samples", 10_000, "Images, generated and real, that are compared.", 2)
flags.DEFINE_integer("noise_seeds", 3, "How often images are generated to be compared.", 1)
flags.DEFINE_integer("seed", 0, "Seed of weights, order, noise and validation split.", 0)
flags.DEFINE_string("output_dir", "runs/prune_dcgan", "Where results go.")

flags.register_validator(
    "schedule",
    lambda schedule: schedule is not kbp.ScheduleType.REDUCE_ON_PLATEAU,
    "A GAN has no metric whose plateau would tell.",
)

_NOT_SETTINGS = {
    *("output_dir", "data_dir", "fashion_mnist_dir"),
    *("prune_discriminator", "scratch", "samples", "noise_seeds"),
}


def settings() -> dict[str, str]:
    """Returns the flags that the trained models depend on."""
    own = FLAGS.get_key_flags_for_module(sys.modules[__name__])
    return {flag.name: flag.serialize() for flag in own if flag.name not in _NOT_SETTINGS}


def alpha_callback() -> kbp.AlphaCallback:
    """Returns the callback that the flags ask for, a new one for every run."""
    parameter = FLAGS.schedule_parameter
    if parameter is None and FLAGS.schedule in (kbp.ScheduleType.LINEAR, kbp.ScheduleType.COSINE):
        parameter = FLAGS.blend_epochs
    return kbp.make_alpha_callback(FLAGS.schedule, parameter, verbose=1)


def epochs_to_zero() -> int:
    """Returns after how many epochs α is 0.

    Raises:
        ValueError: If these are more than `--blend_epochs`.
    """
    schedule = alpha_callback().schedule
    for epochs in range(1, FLAGS.blend_epochs + 1):
        if schedule(epochs) == 0:
            return epochs
    raise ValueError(
        f"α must be 0 after --blend_epochs={FLAGS.blend_epochs} at the latest. Received: a "
        f"schedule that is at {schedule(FLAGS.blend_epochs):g} then; see --schedule_parameter"
    )
