"""Measures how the time for planning, branching and merging grows with the depth of a model.

    python benchmarks/scaling.py --output=docs/results/measured/scaling.png

The models are residual: every block adds two layers to one stream, which is a single channel group.
"""

from __future__ import annotations

import time

import keras
import numpy as np
from absl import app, flags
from keras import layers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import keras_branch_prune as kbp

FLAGS = flags.FLAGS
flags.DEFINE_list("depths", ["10", "30", "100", "300", "1000"], "Numbers of linear layers.")
flags.DEFINE_string("output", None, "Picture to write.")


def residual_model(depth: int) -> keras.Model:
    """Returns a residual stream with `depth` dense layers."""
    inputs = keras.Input((4,))
    x = layers.Dense(8)(inputs)
    for _ in range(max(1, depth // 2 - 1)):
        y = layers.Dense(6, activation="relu")(x)
        x = layers.Add()([x, layers.Dense(8)(y)])
    return keras.Model(inputs, layers.Dense(2)(x))


def measure(depth: int) -> dict[str, float]:
    """Returns the CPU seconds that each step takes, and those to build the model itself."""
    times = {}

    def timed(name, function, *args, **kwargs):
        start = time.process_time()
        result = function(*args, **kwargs)
        times[name] = time.process_time() - start
        return result

    model = timed("building the model", residual_model, depth)
    plan = timed("plan", kbp.plan, model, width=0.5)
    branched = timed("branch", kbp.branch, model, plan)
    kbp.set_alpha(branched, 0)
    timed("merge", kbp.merge, branched, verify=False)
    return times


def main(_: list[str]) -> None:
    """Measures all depths, prints a table and the growth, and draws a picture."""
    depths = [int(depth) for depth in FLAGS.depths]
    measure(depths[0])
    results = {depth: measure(depth) for depth in depths}
    for depth, times in results.items():
        row = "  ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items())
        print(f"{depth:5d} layers: {row}")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in results[depths[0]]:
        seconds = [results[depth][name] for depth in depths]
        slope = np.polyfit(np.log(depths[-3:]), np.log(seconds[-3:]), 1)[0]
        print(f"{name}: grows as depth to the power of {slope:.2f}")
        axes.loglog(depths, seconds, marker="o", label=f"{name} (∝ depth^{slope:.2f})")
    axes.set(xlabel="linear layers", ylabel="CPU seconds")
    axes.legend()
    axes.grid(alpha=0.3)
    if FLAGS.output:
        FigureCanvasAgg(figure).print_figure(FLAGS.output, dpi=150)


if __name__ == "__main__":
    app.run(main)
