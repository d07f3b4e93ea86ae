"""Compares with Torch-Pruning and with masking: the same network, the same machine.

    python3 -m venv torchenv && torchenv/bin/pip install torch torch-pruning
    python benchmarks/peers.py --torch_python=torchenv/bin/python \
        --output=docs/results/measured/peers.json

The network is VGG16 with random weights, for images of 32 pixels. Three things are asked: how long
a plan and the surgery take, what is left, and how fast it is. Original and compact model take turns
when they are measured. PyTorch runs in an environment of its own (`--torch_python`); without it,
only ours and masking are measured.

Masking means what a tool that sets weights to zero leaves: the original shapes, with zeros for the
channels that ours removes (TensorFlow Model Optimization's `strip_pruning` returns such a model).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from _architectures import as_if_trained
from _masking import masked
from absl import app, flags, logging

import keras_branch_prune as kbp
from keras_branch_prune.benchmarking import cpu_name

FLAGS = flags.FLAGS
flags.DEFINE_string("torch_python", None, "Python of an environment with torch, torch-pruning.")
flags.DEFINE_multi_float("width", [0.5, 0.25], "Shares of the channels to keep.", 0, 1)
flags.DEFINE_integer("round_to", 16, "Widths are multiples of it.", 1)
flags.DEFINE_multi_integer("batch_size", [1, 64], "Images per call.", 1)
flags.DEFINE_multi_integer("threads", [1, 2], "Threads of every runtime.", 1)
flags.DEFINE_integer("samples", 500, "Images to calibrate on.", 1)
flags.DEFINE_integer("repeats", 3, "How often surgery is timed; the median counts.", 1)
flags.DEFINE_integer("rounds", 7, "Turns that every variant takes.", 1)
flags.DEFINE_float("seconds", 0.5, "Least time of one turn at one batch size, s.", 0.0)
flags.DEFINE_float("full_width", 1.0, "Factor on VGG16's 64 to 512 filters; for trials.", 0.0)
flags.DEFINE_string("output", None, "JSON file; a Markdown file is put beside it.")

RUNTIMES = {
    "saved_model": "TensorFlow SavedModel",
    "litert": "LiteRT",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
"""Titles of the runtimes that our models are exported to."""

_SIZE, _CLASSES = 32, 10
_TIMEOUT_S = 3600
_PACKAGES = ("tensorflow", "keras", "onnxruntime", "openvino", "ai-edge-litert")
_NO_TORCH = (
    "PyTorch was not measured: pass --torch_python, the interpreter of an environment made by "
    "`python3 -m venv torchenv && torchenv/bin/pip install torch torch-pruning`."
)


def pruned(model: keras.Model, plan: Any, calibration: np.ndarray | None = None) -> keras.Model:
    """Returns the compact model of a plan, without training."""
    branched = kbp.branch(model, plan, calibration=calibration)
    kbp.set_alpha(branched, 0)
    return kbp.merge(branched)


def sizes(model: keras.Model) -> dict[str, int]:
    """Returns the trainable parameters and the MACs."""
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return {"parameters": trainable, "macs": kbp.count_macs(model)}


def surgery(model: keras.Model, width: float, images: np.ndarray | None) -> tuple[float, Any, Any]:
    """Returns the median seconds of plan and surgery, the plan and the compact model."""
    seconds = []
    for _ in range(FLAGS.repeats):
        start = time.perf_counter()
        plan = kbp.plan(model, width=width, round_to=FLAGS.round_to, calibration=images)
        compact = pruned(model, plan, images)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), plan, compact


def latency_rows(model: keras.Model, compact: keras.Model, zeros: keras.Model) -> list[dict]:
    """Returns the latencies of the exported models in every runtime, ms per call."""
    with tempfile.TemporaryDirectory() as scratch:
        # As a SavedModel it is run by TensorFlow only, which is enough to see what zeros save.
        saved = kbp.export_saved_model(zeros, Path(scratch, "masked"), verify=False)
        result = kbp.benchmark(
            {"original": model, "compact": compact, "masked": saved},
            FLAGS.batch_size,
            backends=list(RUNTIMES),
            threads=FLAGS.threads,
            rounds=FLAGS.rounds,
            seconds=FLAGS.seconds,
            devices=["cpu"],
            peak=False,
        )
    original = result.variant("original")
    rows = []
    for name, ending in (("compact", ""), ("masked", ", masked")):
        for found in result.variant(name).timings:
            batch, where = found.batch_size, {"backend": found.backend, "threads": found.threads}
            case = {"runtime": RUNTIMES[found.backend] + ending, "batch": batch}
            case |= {"threads": found.threads, "ms": found.p50_ms * batch}
            case["original_ms"] = original.timing(batch, **where).p50_ms * batch
            rows.append(case | {"speedup": result.speedup(batch, name, **where)})
    return rows


def ask_torch(width: float, threads: int) -> dict:
    """Returns what `_torch_peer.py` measures in its own environment."""
    options = {"width": width, "threads": threads, "size": _SIZE, "classes": _CLASSES}
    options |= {"round_to": FLAGS.round_to, "repeats": FLAGS.repeats, "rounds": FLAGS.rounds}
    options |= {"seconds": FLAGS.seconds, "batch_sizes": FLAGS.batch_size}
    options |= {"full_width": FLAGS.full_width}
    command = [FLAGS.torch_python, str(Path(__file__).with_name("_torch_peer.py"))]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [*command, json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"_torch_peer.py ended with:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def torch_rows(answer: dict, threads: int) -> list[dict]:
    """Returns the latencies of PyTorch as rows of the table."""
    rows = []
    for found in answer["latencies"]:
        for ending, title in (("", "PyTorch"), (", folded", "PyTorch, BatchNorm folded")):
            original, compact = (found["ms"][name + ending] for name in ("original", "compact"))
            case = {"runtime": title, "batch": found["batch"], "threads": threads}
            case |= {"ms": compact, "original_ms": original}
            rows.append(case | {"speedup": original / compact})
    return rows


def measure(width: float) -> tuple[dict, dict[str, str]]:
    """Returns all results at one width, and the versions of what PyTorch uses."""
    keras.utils.set_random_seed(0)
    shape = (_SIZE, _SIZE, 3)
    fresh = kbp.zoo.vgg16(width=FLAGS.full_width, input_shape=shape, classes=_CLASSES)
    model = as_if_trained(fresh)
    images = np.random.default_rng(0).random((FLAGS.samples, *shape), "float32")
    seconds, plan, compact = surgery(model, width, None)
    fitted_seconds, _, fitted = surgery(model, width, images)
    tools = [
        {"tool": "ours", "seconds": seconds, **sizes(compact)},
        {
            "tool": f"ours, fitted to {FLAGS.samples} images",
            "seconds": fitted_seconds,
            **sizes(fitted),
        },
    ]
    rows = latency_rows(model, compact, masked(model, plan))
    versions: dict[str, str] = {}
    original = sizes(model)
    for threads in FLAGS.threads if FLAGS.torch_python else ():
        answer = ask_torch(width, threads)
        versions = answer["versions"]
        if answer["sizes"]["original"] != original:
            raise RuntimeError(f"not the same network: {answer['sizes']['original']}, {original}")
        title = f"Torch-Pruning, {threads} thread{'s' if threads > 1 else ''}"
        tool = {"tool": title, "seconds": answer["seconds"]}
        tools.append(tool | answer["sizes"]["compact"])
        rows += torch_rows(answer, threads)
    return {"width": width, "original": original, "tools": tools, "latencies": rows}, versions


def environment(versions: dict[str, str]) -> dict[str, Any]:
    """Returns what the numbers depend on."""
    ours = {package: importlib.metadata.version(package) for package in _PACKAGES}
    settings = {name: FLAGS[name].value for name in ("round_to", "rounds", "seconds", "full_width")}
    return {"cpu": cpu_name(), "versions": ours | versions, **settings}


def as_markdown(made: dict[str, Any]) -> str:
    """Returns all results as Markdown: one table of sizes, one of latencies."""
    facts = made["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        f"VGG16 (times {facts['full_width']:g}) of {_SIZE} x {_SIZE} pixels, random weights, "
        f"widths rounded to {facts['round_to']}. {facts['cpu']}. {versions}. {facts['rounds']} "
        f"rounds of {facts['seconds']:g} s at least; everything in float32. Ours plans "
        "with TensorFlow's own number of threads.",
        *([] if facts["torch"] else ["", _NO_TORCH]),
        "",
        "| width | tool | plan and surgery, s | MACs | share | trainable parameters | share |",
        "|---|---|---|---|---|---|---|",
        *(_size_line(result, tool) for result in made["results"] for tool in result["tools"]),
        "",
        "Masked: zeros for what is removed, at the original shapes, as masking tools leave it.",
        "",
        "| width | runtime | threads | batch | original, ms per call | pruned, ms | speed-up |",
        "|---|---|---|---|---|---|---|",
        *(_time_line(result, row) for result in made["results"] for row in result["latencies"]),
    ]
    return "\n".join(lines) + "\n"


def _size_line(result: dict, tool: dict) -> str:
    cells = [f"{result['width']:g}", tool["tool"], f"{tool['seconds']:.2f}"]
    for name in ("macs", "parameters"):
        cells += [f"{tool[name]:,}", f"{tool[name] / result['original'][name]:.4f}"]
    return f"| {' | '.join(cells)} |"


def _time_line(result: dict, row: dict) -> str:
    cells = (f"{result['width']:g}", row["runtime"], row["threads"], row["batch"])
    times = f"{row['original_ms']:.2f} | {row['ms']:.2f} | {row['speedup']:.2f}"
    return f"| {' | '.join(map(str, cells))} | {times} |"


def main(argv: list[str]) -> None:
    """Measures one width after the other and writes what there is."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    if not FLAGS.torch_python:
        print(_NO_TORCH, flush=True)
    results, versions = [], {}
    for width in FLAGS.width:
        result, versions = measure(width)
        results.append(result)
        facts = environment(versions) | {"torch": bool(FLAGS.torch_python)}
        made = {"environment": facts, "results": results}
        if FLAGS.output:
            path = Path(FLAGS.output)
            for target, text in (
                (path, json.dumps(made, indent=1) + "\n"),
                (path.with_suffix(".md"), as_markdown(made)),
            ):
                with kbp.atomic_write(target) as temporary:
                    temporary.write_text(text, encoding="utf-8")
    print(as_markdown(made))


if __name__ == "__main__":
    app.run(main)
