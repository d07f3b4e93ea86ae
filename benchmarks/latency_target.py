"""Plans models for a share of their latency, then measures them once more, apart from planning.

    python benchmarks/latency_target.py --names=VGG16,ResNet50,MobileNetV2 --share=0.5

Architectures are those of `keras.applications`, as if trained. Both models are measured as exported
SavedModels that run in turns.
"""

from __future__ import annotations

import time

import keras
import numpy as np
from _architectures import as_if_trained
from absl import app, flags

import keras_branch_prune as kbp

FLAGS = flags.FLAGS
flags.DEFINE_list("names", ["VGG16", "ResNet50", "MobileNetV2"], "Of keras.applications.")
flags.DEFINE_integer("size", 64, "Height and width of the images, pixels.", 1)
flags.DEFINE_float("share", 0.5, "Share of the latency to keep.", 0, 1)
flags.DEFINE_list("batch_sizes", ["1", "16"], "Images per call.")
flags.DEFINE_integer("round_to", None, "Widths are multiples of it.")


def planned(name: str, batch_size: int) -> str:
    """Plans one architecture and returns a line of the table."""
    shape = (FLAGS.size, FLAGS.size, 3)
    fresh = getattr(keras.applications, name)(weights=None, input_shape=shape, classes=10)
    model = as_if_trained(fresh)
    start = time.perf_counter()
    target = kbp.Latency(FLAGS.share, batch_size=batch_size)
    plan = kbp.plan(model, latency=target, round_to=FLAGS.round_to)
    seconds = time.perf_counter() - start
    compact = kbp.select(model, plan)
    shares = []
    for _ in range(3):
        models = {"original": model, "compact": compact}
        measured = kbp.benchmark(models, [batch_size], devices=["cpu"], peak=False)
        shares.append(1 / measured.speedup(batch_size, device="cpu"))
    macs = kbp.count_macs(compact) / kbp.count_macs(model)
    made = dict(plan.target)["latency_measured"]
    cells = (name, batch_size, f"{made:.3f}", f"{np.median(shares):.3f}")
    return (
        f"| {' | '.join(map(str, cells))} | {min(shares):.3f}–{max(shares):.3f} | {macs:.3f} "
        f"| {seconds:.0f} |"
    )


def main(_: list[str]) -> None:
    """Plans all and prints a table."""
    print("| model | batch | share while planning | share after, median | of three | MACs | s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in FLAGS.names:
        for batch_size in FLAGS.batch_sizes:
            print(planned(name, int(batch_size)), flush=True)


if __name__ == "__main__":
    app.run(main)
