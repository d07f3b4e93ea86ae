"""Measures what a number of channels costs: single widths, and whole plans unrounded and rounded.

    python benchmarks/widths.py --output=docs/results/measured/widths.json

Kernels compute channels in blocks, so that a width of 22 can take longer than one of 32. The first
part measures four 3 x 3 convolutions of one width, and compares every width with the next multiple
of `--round_to` above it, which has more MACs. The second part plans whole models at one share of
the channels: unrounded, rounded to the nearest multiple as `plan(round_to=...)` does it, rounded up
to it, and to the block size of this machine ("auto"). All run with one thread; times are of whole
calls, what a call costs besides included. Results are kept one by one, so that an interrupted run
continues; tables are written beside them.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from _architectures import build
from absl import app, flags, logging
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.benchmarking import cpu_name, measure_in_turns

FLAGS = flags.FLAGS
_WIDTHS = "8,16,17,22,24,28,31,32,33,40,44,48,56,64,81,88,96,128"
flags.DEFINE_list("layer_widths", _WIDTHS.split(","), "Widths of the single layers.")
flags.DEFINE_list("layer_sizes", ["8", "16"], "Heights and widths of their images, pixels.")
flags.DEFINE_list("plan_widths", ["0.34375", "0.66"], "Shares of the channels.")
flags.DEFINE_list(
    "models", ["VGG16", "ResNet50"], "Whole models: VGG16, or names in keras.applications."
)
flags.DEFINE_list("batch_sizes", ["1", "16"], "Images per call.")
flags.DEFINE_integer("round_to", 16, "Widths are multiples of it.", 2)
flags.DEFINE_integer("repeats", 3, "How often single layers are measured; the median counts.", 1)
flags.DEFINE_integer("rounds", 7, "Turns that every whole model takes.", 1)
flags.DEFINE_float("seconds", 0.5, "Least time of one such turn at one batch size, s.", 0.0)
flags.DEFINE_string("output", "runs/widths.json", "JSON file of results.")

_DEPTH = 4


def convolutions(width: int, size: int) -> keras.Model:
    """Returns a stack of 3 x 3 convolutions of one width."""
    x = inputs = keras.Input((size, size, width))
    for _ in range(_DEPTH):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
    return keras.Model(inputs, x)


def layer_times(size: int, batch: int) -> dict[str, Any]:
    """Returns the ms per call and the MACs per image of the stack at every width."""
    widths = sorted(set(map(int, FLAGS.layer_widths)) | set(map(above, FLAGS.layer_widths)))
    models = {str(width): convolutions(width, size) for width in widths}
    times = [measure_in_turns(models, batch) for _ in range(FLAGS.repeats)]
    return {
        "ms": {name: statistics.median(one[name] for one in times) for name in models},
        "macs": {name: kbp.count_macs(model) for name, model in models.items()},
    }


def above(width: str | int) -> int:
    """Returns the next multiple of `--round_to`, or the width itself if it is one."""
    return math.ceil(int(width) / FLAGS.round_to) * FLAGS.round_to


def plans(model: keras.Model, share: float) -> Iterator[tuple[str, Any]]:
    """Yields plans of one share, by how their widths are rounded; plans of equal widths once."""
    unrounded = kbp.plan(model, width=share)
    channels = {group.name: group.channels for group in unrounded.groups}
    up = {g.name: min(1, above(g.width) / channels[g.name]) for g in unrounded.groups}
    made = {
        "unrounded": unrounded,
        f"nearest {FLAGS.round_to}": kbp.plan(model, width=share, round_to=FLAGS.round_to),
        f"up to {FLAGS.round_to}": kbp.plan(model, width=up),
    }
    auto = kbp.plan(model, width=share, round_to="auto")
    made[f"auto: {dict(auto.target)['block_size']}"] = auto
    by_widths: dict[tuple, list[str]] = {}
    for name, plan in made.items():
        widths = tuple((group.name, group.width) for group in plan.groups)
        by_widths.setdefault(widths, []).append(name)
    for names in by_widths.values():
        yield " = ".join(names), made[names[0]]


def plan_times(name: str, share: float) -> list[dict[str, Any]]:
    """Returns the MACs and ms per call of the compact models of all plans of one share."""
    keras.utils.set_random_seed(0)
    model = build(name)
    models = {"original": model}
    for rounding, plan in plans(model, share):
        models[rounding] = kbp.select(model, plan)
    batches = list(map(int, FLAGS.batch_sizes))
    options = {"rounds": FLAGS.rounds, "seconds": FLAGS.seconds, "threads": 1}
    result = kbp.benchmark(models, batches, devices=["cpu"], **options)
    first = next(rounding for rounding in models if rounding.startswith("unrounded"))
    return [
        {
            "rounding": rounding,
            "macs": kbp.count_macs(compact) / kbp.count_macs(model),
            # The result is per image.
            "ms": {b: result.variant(rounding).timing(b).p50_ms * b for b in batches},
            "to_unrounded": {
                b: result.speedup(b, first) / result.speedup(b, rounding) for b in batches
            },
        }
        for rounding, compact in models.items()
    ]


def layer_table(case: dict[str, Any]) -> list[str]:
    """Returns a table of single widths at one image and batch size as lines of Markdown."""
    ms, macs, batch = case["ms"], case["macs"], case["batch"]
    lines = [
        f"Images of {case['size']} x {case['size']} pixels, batch {batch}:",
        "",
        "| width | ms per call | ps per MAC | next multiple | its time / this | its MACs / this |",
        "|---|---|---|---|---|---|",
    ]
    for width in ms:
        wide = str(math.ceil(int(width) / case["round_to"]) * case["round_to"])
        per_mac = ms[width] * 1e9 / (macs[width] * batch)
        cells = [width, f"{ms[width]:.4f}", f"{per_mac:.1f}", "–", "–", "–"]
        if wide != width:
            ratios = (ms[wide] / ms[width], macs[wide] / macs[width])
            cells[3:] = [wide, *(f"{ratio:.2f}" for ratio in ratios)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def plan_table(cases: list[dict[str, Any]]) -> list[str]:
    """Returns a table of whole plans as lines of Markdown."""
    batches = list(cases[0]["rows"][0]["ms"]) if cases else []
    heads = [f"ms, batch {b} | to unrounded" for b in batches]
    lines = [
        f"| model | width | rounding | MACs share | {' | '.join(heads)} |",
        f"|---|---|---|---|{'---|---|' * len(batches)}",
    ]
    for case in cases:
        for row in case["rows"]:
            times = [f"{row['ms'][b]:.3f} | {row['to_unrounded'][b]:.3f}" for b in batches]
            cells = [case["model"], case["share"], row["rounding"], f"{row['macs']:.4f}", *times]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def as_markdown(results: list[dict[str, Any]]) -> str:
    """Returns all results as Markdown."""
    lines = [f"{cpu_name()}, one thread, TensorFlow {tf.__version__}.", ""]
    for case in results:
        if case["kind"] == "layers":
            lines += layer_table(case)
    lines += plan_table([case for case in results if case["kind"] == "plans"])
    return "\n".join(lines) + "\n"


def cases() -> Iterator[dict[str, Any]]:
    """Yields what is to be measured."""
    for size in FLAGS.layer_sizes:
        for batch in FLAGS.batch_sizes:
            case = {"kind": "layers", "size": int(size), "batch": int(batch)}
            yield case | {"round_to": FLAGS.round_to}
    for model in FLAGS.models:
        for share in FLAGS.plan_widths:
            yield {"kind": "plans", "model": model, "share": float(share)}


def measured(case: dict[str, Any]) -> dict[str, Any]:
    """Returns a case with its results, in the form that JSON gives back."""
    if case["kind"] == "layers":
        found = layer_times(case["size"], case["batch"])
    else:
        found = {"rows": plan_times(case["model"], case["share"])}
    return json.loads(json.dumps(case | found))


def main(argv: list[str]) -> None:
    """Measures the cases that have no result yet and writes all."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    path = Path(FLAGS.output)
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for case in cases():
        if any(case.items() <= result.items() for result in results):
            continue
        results.append(measured(case))
        print(*case.values(), flush=True)
        for target, text in (
            (path, json.dumps(results, indent=1) + "\n"),
            (path.with_suffix(".md"), as_markdown(results)),
        ):
            with kbp.atomic_write(target) as temporary:
                temporary.write_text(text, encoding="utf-8")
        keras.backend.clear_session()
    print(as_markdown(results))


if __name__ == "__main__":
    app.run(main)
