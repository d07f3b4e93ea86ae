"""A case in which a plain fall of α ruins a model, and an adaptive one does not.

    python benchmarks/collapse.py --output=docs/collapse.json

A VGG16 trained on 10,000 images of Fashion-MNIST is blended into branches whose reduce and expand
maps are random (Glorot), not fitted. `AlphaStepDecay(0.1)` and `AlphaBacktracking(0.1)` get the
same number of epochs, the same learning rate, and data in the same order, each with and without
`ReestimateBatchNorm`. Accuracies are those on validation images; the test set is not touched.
Curves are drawn beside the results.
"""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from fashion_mnist import FOLDER, Split, load_training_data
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import keras_branch_prune as kbp

COLOURS = {
    "step": "tab:red",
    "step+statistics": "tab:orange",
    "backtracking": "tab:green",
    "backtracking+statistics": "tab:blue",
}

FLAGS = flags.FLAGS
flags.DEFINE_string("data", FOLDER, "Folder of the four .gz files.")
flags.DEFINE_string("output", "runs/collapse.json", "JSON file of results.")
flags.DEFINE_string("original", "runs/collapse_original.keras", "The model, trained if missing.")
flags.DEFINE_float("width", 0.25, "Factor on the filters of VGG16.")
flags.DEFINE_float("keep", 0.34375, "Share of the channels to keep.", 0, 1)
flags.DEFINE_integer("original_images", 10_000, "Images that the original is trained on.", 1)
flags.DEFINE_integer("images", 10_000, "Images that the branched model is trained on.", 1)
flags.DEFINE_integer("train_epochs", 8, "Epochs for the original.", 1)
flags.DEFINE_integer("steps_per_epoch", 20, "Batches of 64 images between two steps of α.", 1)
flags.DEFINE_integer("epochs", 60, "Epochs of so many batches, while α falls and after.", 1)
flags.DEFINE_integer("validation_images", 2000, "Number of validation images.", 1)
flags.DEFINE_float("learning_rate", 0.005, "Learning rate of SGD with momentum 0.9.")
flags.DEFINE_list("seeds", ["0"], "Seeds of channels, maps and order.")
flags.DEFINE_list("methods", list(COLOURS), f"Of {', '.join(COLOURS)}.")
flags.DEFINE_integer("statistics_images", 1000, "Training images to re-estimate statistics on.", 1)
flags.DEFINE_float("max_drop", 0.02, "Fall of the accuracy that backtracking tolerates.")
flags.DEFINE_integer("patience", 3, "Epochs that backtracking gives a step.")


def compile_(model: keras.Model, rate: float) -> None:
    """Compiles a classifier that returns logits."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss, metrics=["accuracy"])


def trained(train: Split, validation: Split) -> keras.Model:
    """Returns the original, trained once."""
    path = Path(FLAGS.original)
    if not path.exists():
        keras.utils.set_random_seed(0)
        model = kbp.zoo.vgg16(width=FLAGS.width, input_shape=(28, 28, 1))
        compile_(model, 0.05)
        falling = keras.callbacks.LearningRateScheduler(
            lambda epoch: 0.05 * (1 - epoch / FLAGS.train_epochs)
        )
        options = {"epochs": FLAGS.train_epochs, "batch_size": 64, "verbose": 2}
        model.fit(*train, validation_data=validation, callbacks=[falling], **options)
        kbp.save_model(model, path)
    return kbp.load_model(path, compile=False)


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
        method: One of `COLOURS`.
        accuracy: The original's, on the validation images.
        images: Training images.
    """
    way, _, statistics = method.partition("+")
    options = {"max_drop": FLAGS.max_drop, "patience": FLAGS.patience}
    decay = {
        "step": lambda: kbp.AlphaStepDecay(0.1, verbose=1),
        "backtracking": lambda: kbp.AlphaBacktracking(
            0.1, reference=accuracy, **options, verbose=1
        ),
    }[way]()
    if not statistics:
        return [decay]
    return [decay, kbp.ReestimateBatchNorm(images[: FLAGS.statistics_images])]


def run(
    original: keras.Model,
    train: Split,
    validation: Split,
    callbacks: list[keras.callbacks.Callback],
    seed: int,
) -> dict:
    """Lets α fall in one way; returns the logs."""
    keras.utils.set_random_seed(seed)
    branched = with_random_maps(original, seed)
    compile_(branched, FLAGS.learning_rate)
    batches = tf.data.Dataset.from_tensor_slices(train).shuffle(len(train[0]), seed).repeat()
    logs = branched.fit(
        batches.batch(64),
        steps_per_epoch=FLAGS.steps_per_epoch,
        epochs=FLAGS.epochs,
        validation_data=validation,
        validation_batch_size=250,
        callbacks=callbacks,
        shuffle=False,
        verbose=2,
    )
    alpha = kbp.get_alpha(branched)
    history = {name: [float(x) for x in values] for name, values in logs.history.items()}
    return {"seed": seed, "final_alpha": alpha, "history": history}


def draw(results: list[dict], accuracy: float, path: Path) -> None:
    """Draws accuracy and α against the epoch."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for result in results:
        label = result["method"] if result["seed"] == results[0]["seed"] else None
        for panel, name in zip(axes, ("val_accuracy", "alpha"), strict=True):
            values = result["history"][name]
            epochs = range(1, len(values) + 1)
            panel.plot(epochs, values, color=COLOURS[result["method"]], label=label, alpha=0.8)
    axes[0].axhline(accuracy, color="black", linestyle=":", label="original")
    axes[0].set(xlabel="epoch", ylabel="accuracy on validation images", ylim=(0, 1))
    axes[1].set(xlabel="epoch", ylabel="α", ylim=(-0.02, 1.02))
    axes[0].legend()
    FigureCanvasAgg(figure).print_figure(path, dpi=150)


def main(_: list[str]) -> None:
    """Runs what has no result yet."""
    (images, labels), held_out = load_training_data(FLAGS.data)
    validation = tuple(array[: FLAGS.validation_images] for array in held_out)
    whole = images[: FLAGS.original_images], labels[: FLAGS.original_images]
    train = images[: FLAGS.images], labels[: FLAGS.images]
    original = trained(whole, validation)
    logits = original.predict(validation[0], batch_size=250, verbose=0)
    accuracy = float(np.mean(logits.argmax(-1) == validation[1]))
    path = Path(FLAGS.output)
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"results": []}
    results = found["results"]
    for seed in map(int, FLAGS.seeds):
        for method in FLAGS.methods:
            if not any((r["method"], r["seed"]) == (method, seed) for r in results):
                callbacks = make_callbacks(method, accuracy, train[0])
                outcome = run(original, train, validation, callbacks, seed)
                results.append({"method": method, **outcome})
                text = json.dumps({"original": accuracy, "results": results}, indent=1)
                with kbp.atomic_write(path) as temporary:
                    temporary.write_text(text + "\n", encoding="utf-8")
    draw(results, accuracy, path.with_suffix(".png"))
    print(f"original: {accuracy:.4f}")
    for result in results:
        values = result["history"]["val_accuracy"]
        print(
            f"{result['method']}, seed {result['seed']}: lowest {min(values):.4f}, "
            f"last {values[-1]:.4f}, final α {result['final_alpha']:g}"
        )


if __name__ == "__main__":
    app.run(main)
