"""Measures time and memory of planning, branching and reconstructing with calibration data.

    python benchmarks/calibration_cost.py --images=512,4096

Every number of images is measured in a fresh process, on random images that are made batch by
batch, for the weights that `keras.applications` begins with: the cost does not depend on either.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from absl import app, flags

import keras_branch_prune as kbp

FLAGS = flags.FLAGS
flags.DEFINE_string("name", "ResNet50", "Architecture of keras.applications.")
flags.DEFINE_integer("size", 64, "Height and width of the images, pixels.", 1)
flags.DEFINE_float("width", 0.5, "Share of the channels that every group keeps.", 0, 1)
flags.DEFINE_list("images", ["512", "4096"], "Numbers of calibration images.")
flags.DEFINE_integer("batch_size", 32, "Images per batch.", 1)
flags.DEFINE_float("memory", 256, "Activations held in memory, MiB; the rest is in files.", 0)
flags.DEFINE_integer("only", None, "Measure this number in this process, print the result as JSON.")


def random_batches(images: int) -> Iterator[np.ndarray]:
    """Yields `images` random images in batches `(batch, height, width, 3)`."""
    rng = np.random.default_rng(0)
    for start in range(0, images, FLAGS.batch_size):
        count = min(FLAGS.batch_size, images - start)
        yield rng.random((count, FLAGS.size, FLAGS.size, 3), dtype=np.float32)


def measure(images: int) -> dict[str, float]:
    """Returns the seconds of each step and the peak memory, MiB."""
    builder = getattr(keras.applications, FLAGS.name)
    model = builder(weights=None, input_shape=(FLAGS.size, FLAGS.size, 3))
    model(np.zeros((1, *model.input.shape[1:]), np.float32))
    built, times = peak_memory_mib(), [time.perf_counter()]
    cpu = time.process_time()
    plan = kbp.plan(model, width=FLAGS.width, calibration=random_batches(images))
    times.append(time.perf_counter())
    branched = kbp.branch(model, plan)
    times.append(time.perf_counter())
    kbp.reconstruct(branched, random_batches(images), memory_mib=FLAGS.memory)
    times.append(time.perf_counter())
    cpu = time.process_time() - cpu
    peak = peak_memory_mib()
    planning, branching, reconstructing = np.diff(times)
    return {
        "images": images,
        "plan, s": planning,
        "branch, s": branching,
        "reconstruct, s": reconstructing,
        "CPU s of all cores": cpu,
        "peak memory, MiB": peak,
        "beyond the model, MiB": peak - built,
    }


def peak_memory_mib() -> float:
    """Returns the largest amount of memory this process has held so far (VmHWM), MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def in_fresh_process(images: str) -> dict[str, float]:
    """Returns the result of `measure` in a process of its own."""
    command = [sys.executable, *sys.argv, f"--only={images}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(_: list[str]) -> None:
    """Measures all numbers of images and prints a table."""
    if FLAGS.only is not None:
        print(json.dumps(measure(FLAGS.only)))
        return
    for index, images in enumerate(FLAGS.images):
        result = in_fresh_process(images)
        if index == 0:
            print(" | ".join(result))
        cells = (f"{value:,.0f}".rjust(len(name)) for name, value in result.items())
        print(" | ".join(cells), flush=True)


if __name__ == "__main__":
    app.run(main)
