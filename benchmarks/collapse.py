"""A fall of α that ruins a model, and others in the same epochs that do not.

    python benchmarks/collapse.py --output=docs/results/measured/collapse.json
    python benchmarks/collapse.py --output=docs/results/measured/collapse_without_norm.json \
        --nobatch_norm --batches=38 --epochs=80 \
        --methods=step,step+matching,backtracking,backtracking+matching

A chain of convolutions on scikit-learn's digits is blended, in few batches, into branches whose
reduce and expand maps are random (Glorot) and fitted to nothing. All ways get the same number of
epochs, the same learning rate, and data in the same order: `AlphaStepDecay(0.1)` or
`AlphaBacktracking(0.1)`, with re-estimated statistics of BatchNormalization or without, with local
matching or without. Accuracies are those on validation images. Curves are drawn beside the results.
"""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from keras import layers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import keras_branch_prune as kbp

Split = tuple[np.ndarray, np.ndarray]

METHODS = ("step", "step+statistics", "backtracking", "backtracking+statistics")
COLOURS = ("tab:red", "tab:orange", "tab:green", "tab:blue")

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "runs/collapse.json", "JSON file of results.")
flags.DEFINE_integer("depth", 8, "Number of convolutions.", 1)
flags.DEFINE_float("keep", 0.34375, "Share of the channels to keep.", 0, 1)
flags.DEFINE_integer("train_epochs", 40, "Epochs for the original.", 1)
flags.DEFINE_bool("batch_norm", True, "Whether the convolutions have BatchNormalization.")
flags.DEFINE_integer("epochs", 60, "Epochs while α falls and after.", 1)
flags.DEFINE_integer("batches", 10, "Batches of 32 images in an epoch.", 1)
flags.DEFINE_float("learning_rate", 0.01, "Learning rate of SGD with momentum 0.9.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights, channels, maps and order.")
flags.DEFINE_list("methods", list(METHODS), "step or backtracking, +statistics, +matching.")
flags.DEFINE_float("matching", 1.0, "Weight of the local matching.")
flags.DEFINE_float("max_drop", 0.02, "Fall of the accuracy that backtracking tolerates.")
flags.DEFINE_integer("patience", 10, "Epochs that backtracking gives a step.")


def load_data() -> tuple[Split, Split]:
    """Returns training and validation images in [0, 1], with labels."""
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    train, validation = order[:1200], order[1200:]
    return tuple((images[part], digits.target[part]) for part in (train, validation))


def compile_(model: keras.Model, rate: float) -> None:
    """Compiles a classifier that returns logits."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss, metrics=["accuracy"])


def trained(train: Split, seed: int) -> keras.Model:
    """Returns the original."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input(train[0].shape[1:])
    for number in range(FLAGS.depth):
        options = {"padding": "same", "kernel_initializer": "he_normal"}
        x = layers.Conv2D(32, 3, **options, name=f"conv{number}")(x)
        x = layers.BatchNormalization()(x) if FLAGS.batch_norm else x
        x = layers.ReLU()(x)
        if number == FLAGS.depth // 2 - 1:
            x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(10, name="logits")(x))
    compile_(model, 0.02)
    falling = keras.callbacks.LearningRateScheduler(
        lambda epoch: 0.02 * (1 - epoch / FLAGS.train_epochs)
    )
    model.fit(*train, epochs=FLAGS.train_epochs, callbacks=[falling], verbose=0)
    return model


def with_random_maps(original: keras.Model, seed: int) -> keras.Model:
    """Returns a branched model that knows nothing of the original but the channels' parameters."""
    plan = kbp.plan(original, width=FLAGS.keep, saliency="random", seed=seed)
    branched = kbp.branch(original, plan)
    draw = keras.initializers.GlorotUniform(seed=keras.random.SeedGenerator(seed))
    for layer in branched.layers:
        if isinstance(layer, kbp.ChannelMap):
            for kernel in layer.kernels:
                kernel.assign(draw(kernel.shape))
    return branched


def make_callbacks(
    method: str, accuracy: float, images: np.ndarray
) -> list[keras.callbacks.Callback]:
    """Returns what lets α fall.

    Args:
        method: Its name, see the flag.
        accuracy: The original's, on the validation images.
        images: The training images.
    """
    if method.startswith("step"):
        decay = kbp.AlphaStepDecay(0.1)
    else:
        decay = kbp.AlphaBacktracking(
            0.1,
            reference=accuracy,
            max_drop=FLAGS.max_drop,
            patience=FLAGS.patience,
            growth=1.0,
        )
    return [decay, kbp.ReestimateBatchNorm(images[:600])] if "+statistics" in method else [decay]


def run(
    original: keras.Model, train: Split, validation: Split, method: str, accuracy: float, seed: int
) -> dict:
    """Lets α fall in one way; returns the logs."""
    keras.utils.set_random_seed(seed)
    model = branched = with_random_maps(original, seed)
    if "+matching" in method:
        model = kbp.Distiller(branched, teacher=original, weight=0.0, matching=FLAGS.matching)
    compile_(model, FLAGS.learning_rate)
    samples = tf.data.Dataset.from_tensor_slices(train).shuffle(len(train[0]), seed).repeat()
    with warnings.catch_warnings():
        # To give up is a result here.
        warnings.filterwarnings("ignore", "Training stopped with the last good state")
        logs = model.fit(
            samples.batch(32),
            epochs=FLAGS.epochs,
            steps_per_epoch=FLAGS.batches,
            validation_data=validation,
            callbacks=make_callbacks(method, accuracy, train[0]),
            shuffle=False,
            verbose=0,
        ).history
    kept = model.evaluate(*validation, return_dict=True, verbose=0)["accuracy"]
    return {
        "method": method,
        "seed": seed,
        "original": accuracy,
        "final_alpha": kbp.get_alpha(branched),
        "final_accuracy": kept,
        "history": {name: [float(x) for x in logs[name]] for name in ("val_accuracy", "alpha")},
    }


def draw(results: list[dict], path: Path) -> None:
    """Draws accuracy and α against the epoch."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    colours = dict(zip(FLAGS.methods, itertools.cycle(COLOURS), strict=False))
    first = results[0]["seed"]
    for result in sorted(results, key=lambda result: FLAGS.methods.index(result["method"])):
        method = result["method"]
        label = method if result["seed"] == first else None
        for panel, name in zip(axes, ("val_accuracy", "alpha"), strict=True):
            values = result["history"][name]
            epochs = range(1, len(values) + 1)
            panel.plot(epochs, values, color=colours[method], label=label, alpha=0.7, linewidth=1)
    accuracy = np.mean([result["original"] for result in results])
    axes[0].axhline(accuracy, color="black", linestyle=":", label="original (mean)")
    axes[0].set(xlabel="epoch", ylabel="accuracy on validation images", ylim=(0, 1))
    axes[1].set(xlabel="epoch", ylabel="α", ylim=(-0.02, 1.02))
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=5, fontsize=8)
    FigureCanvasAgg(figure).print_figure(path, dpi=150)


def main(_: list[str]) -> None:
    """Runs what has no result yet."""
    train, validation = load_data()
    path = Path(FLAGS.output)
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for seed in map(int, FLAGS.seeds):
        done = {result["method"] for result in results if result["seed"] == seed}
        missing = [method for method in FLAGS.methods if method not in done]
        if not missing:
            continue
        original = trained(train, seed)
        accuracy = original.evaluate(*validation, return_dict=True, verbose=0)["accuracy"]
        for method in missing:
            results.append(run(original, train, validation, method, accuracy, seed))
            with kbp.atomic_write(path) as temporary:
                temporary.write_text(json.dumps(results) + "\n", encoding="utf-8")
            print(summary(results[-1]), flush=True)
    draw(results, path.with_suffix(".png"))


def summary(result: dict) -> str:
    """Returns a result in one line."""
    return (
        f"seed {result['seed']}, {result['method']}: original {result['original']:.4f}, "
        f"lowest {min(result['history']['val_accuracy']):.4f}, "
        f"in the end {result['final_accuracy']:.4f} at α = {result['final_alpha']:g}"
    )


if __name__ == "__main__":
    app.run(main)
