"""The flags of the autoencoder example, and what they say in the terms of `kbp.prune`."""

from __future__ import annotations

import sys

from absl import flags
from photos import BUNDLED

import keras_branch_prune as kbp

FLAGS = flags.FLAGS

# What is pruned, one call of `kbp.prune` after the other: the nested models in its scope.
APPROACHES: dict[str, tuple[tuple[str, ...], ...]] = {
    "encoder": (("encoder",),),
    "decoder": (("decoder",),),
    "both": (("encoder", "decoder"),),
    "encoder_then_decoder": (("encoder",), ("decoder",)),
}

# The windows of the structural similarity have so many pixels per side.
SMALLEST_CROP = 11

flags.DEFINE_string(
    "dataset", BUNDLED, f"{BUNDLED}, a folder of images, or a tensorflow-datasets name."
)
flags.DEFINE_string("data_dir", "~/tensorflow_datasets", "Folder of tensorflow-datasets.")
flags.DEFINE_integer("crop_size", 128, "Height and width of the crops, px.", SMALLEST_CROP)
flags.DEFINE_integer("crops", 256, "Training crops per epoch, new ones in every epoch.", 1)
flags.DEFINE_integer("evaluation_crops", 64, "Crops to evaluate on, of every split.", 1)
flags.DEFINE_list(
    "widths", ["16", "32", "32"], "Channels of the encoder's blocks; 64,128,128 for the full size."
)
flags.DEFINE_bool("skips", False, "Whether the decoder also reads the encoder's blocks.")
flags.DEFINE_bool(
    "recolour",
    None,
    "Whether to shuffle the colours of training crops, and to give each with its negative; none: "
    "with --skips. Without them, training then stays with grey images.",
)
flags.DEFINE_enum("prune", "both", [*APPROACHES, "all"], "What to prune, and in which order.")
flags.DEFINE_float("keep", 0.34375, "Share of the channels to keep.")
flags.DEFINE_integer("calibration", 32, "Training crops to rank and fit on, and for statistics.", 1)
flags.DEFINE_integer("train_epochs", 100, "Epochs for the original model.", 1)
flags.DEFINE_integer("blend_epochs", 4, "Epochs in which α falls to 0.", 1)
flags.DEFINE_integer("finetune_epochs", 60, "Epochs for the compact model.", 0)
flags.DEFINE_enum("schedule", "linear", ["linear", "cosine"], "How α falls, batch by batch.")
flags.DEFINE_float("learning_rate", 0.002, "Initial learning rate of the original.")
flags.DEFINE_float(
    "finetune_learning_rate", None, "That of the compact model, which bears a higher one; none: it."
)
flags.DEFINE_float(
    "blend_learning_rate", None, "Learning rate while α falls; none: a fifth of the original's."
)
flags.DEFINE_bool("train_original", True, "Whether the original's weights are trained on too.")
flags.DEFINE_integer("batch_size", 8, "Crops per training step.", 1)
flags.DEFINE_integer("seed", 0, "Seed of weights, training crops and, but for photos, splits.", 0)
flags.DEFINE_string("output_dir", "runs/prune_autoencoder", "Where results go.")
flags.DEFINE_bool("control", False, "Whether to train the original on for as many epochs.")
flags.DEFINE_bool("benchmark", False, "Whether to measure latency and memory.")

_NOT_SETTINGS = {"output_dir", "data_dir", "prune", "control", "benchmark"}


def _are_widths(values: list[str]) -> bool:
    return bool(values) and all(value.isdigit() and int(value) > 0 for value in values)


flags.register_validator("widths", _are_widths, "must be positive integers, such as 16,32,32")
flags.register_validator("keep", lambda share: 0 < share < 1, "must be between 0 and 1")
flags.register_multi_flags_validator(
    ["crop_size", "widths"],
    lambda values: values["crop_size"] % 2 ** len(values["widths"]) == 0,
    "--crop_size must be a multiple of 2 to the number of --widths.",
)
flags.register_multi_flags_validator(
    ["prune", "blend_epochs"],
    lambda values: values["blend_epochs"] > 1 or len(_steps(values["prune"])) == 1,
    "--blend_epochs must be at least 2, one for each half of encoder_then_decoder.",
)


def _steps(prune: str) -> tuple:
    return APPROACHES["encoder_then_decoder" if prune == "all" else prune]


def settings() -> dict[str, str]:
    """Returns the flags that the results depend on."""
    own = FLAGS.get_key_flags_for_module(sys.modules[__name__])
    return {flag.name: flag.serialize() for flag in own if flag.name not in _NOT_SETTINGS}


def approaches() -> list[str]:
    """Returns the names of the approaches that are asked for."""
    return list(APPROACHES) if FLAGS.prune == "all" else [FLAGS.prune]


def recipe(step: int = 0, steps: int = 1) -> kbp.Recipe:
    """Returns how the flags say to train.

    Args:
        step: Which call of `kbp.prune` it is for.
        steps: How many calls share the epochs.
    """
    return kbp.Recipe(
        blend_epochs=_share(FLAGS.blend_epochs, step, steps),
        finetune_epochs=_share(FLAGS.finetune_epochs, step, steps),
        learning_rate=_given(FLAGS.finetune_learning_rate, FLAGS.learning_rate),
        blend_learning_rate=_given(FLAGS.blend_learning_rate, FLAGS.learning_rate / 5),
        calibration_samples=FLAGS.calibration,
        train_original=FLAGS.train_original,
        # While α falls, the moving averages of the batch normalization lag behind it.
        reestimate_batch_norm=True,
        batch_size=FLAGS.batch_size,
        seed=FLAGS.seed,
    )


def _given(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _share(epochs: int, step: int, steps: int) -> int:
    """Returns the part of some epochs that one of several steps has; the last has the most."""
    return epochs * (step + 1) // steps - epochs * step // steps


def alpha_callback(epochs: int, batches: int) -> kbp.AlphaCallback:
    """Returns the callback that lets α fall with every batch.

    Args:
        epochs: In how many epochs; at the end, half an epoch is trained at α = 0.
        batches: How many batches an epoch has.
    """
    steps = max(1, round((epochs - 0.5) * batches))
    return kbp.make_alpha_callback(kbp.ScheduleType(FLAGS.schedule), steps, unit="batch")
