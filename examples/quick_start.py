"""From a trained model to a compact one in a minute, with nothing else installed.

python examples/quick_start.py
"""

import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_branch_prune as kbp


def draw_stripes(count, seed):
    """Returns images (count, 16, 16, 1) of stripes in noise, and which of 4 directions each has."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    y, x = np.mgrid[:16, :16]
    across = np.stack([x, y, x + y, x - y])[labels]
    phases = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    images = np.sin(across + phases) + rng.normal(0, 2, (count, 16, 16))
    return images[..., None].astype("float32"), labels


def trained_model(images, labels):
    """Returns the model to prune: any functional or Sequential Keras model would do."""
    blocks = []
    for filters in (32, 64):
        blocks += [
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.MaxPooling2D(),
        ]
    model = keras.Sequential(
        [keras.Input((16, 16, 1)), *blocks, layers.Flatten(), layers.Dense(4, activation="softmax")]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, epochs=4, batch_size=32, verbose=2)
    return model


keras.utils.set_random_seed(0)
(images, labels), test = draw_stripes(4000, seed=1), draw_stripes(1000, seed=2)
model = trained_model(images, labels)
print(kbp.explain(model))

plan = kbp.plan(model, macs=0.2, calibration=images)  # which channels stay
branched = kbp.branch(model, plan, calibration=images)  # a new model; `model` stays as it is
branched.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
branched.fit(images, labels, epochs=5, verbose=2, callbacks=[kbp.AlphaStepDecay(0.25)])

compact = kbp.merge(branched)  # stock Keras layers, equal to the branched model at α = 0
compact.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
compact.fit(images, labels, epochs=2, verbose=2)

for name, each in (("original", model), ("compact", compact)):
    print(f"{name}: test accuracy {each.evaluate(*test, verbose=0)[1]:.3f}")
with tempfile.TemporaryDirectory() as folder:
    print(kbp.export_saved_model(compact, Path(folder) / "compact"), "is verified")
print(kbp.benchmark({"original": model, "compact": compact}, rounds=6, seconds=0.2))
