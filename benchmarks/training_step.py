"""Compares a training step of a branched model with one of the original model: time and memory.

    python benchmarks/training_step.py --widths=1,0.25 --rounds=5

Times are taken side by side in one process, one step of every case per round in turn, and printed
as ratios to the original's step of the same round: the median, and the range of the middle half.
Peak memory (VmHWM) is that of a fresh process per case.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import re
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from absl import app, flags

import keras_branch_prune as kbp

FLAGS = flags.FLAGS
flags.DEFINE_list("widths", ["1", "0.25"], "Widths of VGG16, as shares of 64 to 512 channels.")
flags.DEFINE_float("plan_width", 0.34375, "Share of the channels that the plan keeps.")
flags.DEFINE_integer("batch_size", 128, "Samples per step.", lower_bound=1)
flags.DEFINE_integer("rounds", 5, "Steps of every case, after two to warm up.", lower_bound=1)
flags.DEFINE_list("cases", ["blended", "frozen"], "What is compared with the original.")
flags.DEFINE_boolean("time", True, "Whether times are compared.")
flags.DEFINE_boolean("memory", True, "Whether peak memory is compared.")


@dataclasses.dataclass
class Case:
    """A compiled model; its loss counts how often its training step is traced."""

    model: keras.Model
    traces: int = 0

    def loss(self, y_true, y_pred):
        """Returns the cross-entropy; Python runs it only when the step is traced."""
        self.traces += 1
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


def make_case(name: str, width: float, plan_width: float) -> Case:
    """Returns the case of this name, compiled."""
    keras.utils.set_random_seed(0)
    model = kbp.zoo.vgg16(width=width)
    if name != "original":
        plan = kbp.plan(model, width=plan_width)
        model = kbp.branch(model, plan, train_original=name != "frozen")
        kbp.set_alpha(model, 0.5)
    case = Case(model)
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), case.loss)
    return case


def make_batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images `(size, 32, 32, 3)` and labels `(size,)`."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 32, 32, 3)).astype("float32"), rng.integers(0, 10, size)


def seconds(step: Callable[[], object]) -> float:
    """Returns the wall-clock time of a step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare_times(width: float, names: list[str], rounds: int) -> None:
    """Prints the ratios of the cases' steps to the original's, and how often they were retraced."""
    batch = make_batch(FLAGS.batch_size)
    cases = {name: make_case(name, width, FLAGS.plan_width) for name in ["original", *names]}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 2):
        for name, case in cases.items():
            if number == 2:
                case.traces = 0
            if name != "original":
                kbp.set_alpha(case.model, 1 - number / (rounds + 2))
            elapsed = seconds(lambda case=case: case.model.train_on_batch(*batch))
            if number >= 2:
                times[name].append(elapsed)
    for name in names:
        ratios = np.divide(times[name], times["original"])
        low, median, high = np.percentile(ratios, [25, 50, 75])
        print(
            f"width {width:g}, {name}: step {median:.3f}x the original's "
            f"({low:.3f} to {high:.3f}, {rounds} rounds), "
            f"traced again {cases[name].traces} times while alpha moved",
            flush=True,
        )


def peak_memory(name: str, width: float, plan_width: float, batch_size: int) -> int:
    """Returns the peak memory of this process in KiB after two steps of a case."""
    case, batch = make_case(name, width, plan_width), make_batch(batch_size)
    for _ in range(2):
        case.model.train_on_batch(*batch)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def compare_memory(width: float, names: list[str]) -> None:
    """Prints the ratios of the cases' peak memory to the original's, each in a fresh process."""
    peaks = {}
    for name in ["original", *names]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            arguments = (name, width, FLAGS.plan_width, FLAGS.batch_size)
            peaks[name] = pool.apply(peak_memory, arguments)
    for name in names:
        ratio = peaks[name] / peaks["original"]
        print(
            f"width {width:g}, {name}: peak memory {ratio:.3f}x the original's "
            f"({peaks[name] / 2**10:.0f} MiB, {peaks['original'] / 2**10:.0f} MiB)",
            flush=True,
        )


def main(_: list[str]) -> None:
    """Compares all cases at all widths."""
    for width in map(float, FLAGS.widths):
        if FLAGS.time:
            compare_times(width, FLAGS.cases, FLAGS.rounds)
        if FLAGS.memory:
            compare_memory(width, FLAGS.cases)


if __name__ == "__main__":
    app.run(main)
