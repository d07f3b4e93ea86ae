"""Prunes every architecture of `keras.applications` and checks each result numerically.

    python benchmarks/applications.py --output=docs/applications.json
    python benchmarks/applications.py --names=ResNet50,ConvNeXtTiny --policy=float64

Every architecture is built without weights, filled with random numbers (BatchNormalization too, so
that mistakes show), planned at one width, branched, moved away from its starting point, merged and
compared, each in a process of its own. With `--output`, results are kept one by one, so that an
interrupted run continues (failures are tried again), and a table is written beside them.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
from absl import app, flags

import keras_branch_prune as kbp
from keras_branch_prune.equivalence import random_inputs, relative_error

FLAGS = flags.FLAGS
flags.DEFINE_list("names", None, "Architectures; none: all of keras.applications.")
flags.DEFINE_float("width", 0.5, "Share of the channels that every group keeps.", 0, 1)
flags.DEFINE_enum("policy", "float32", ["float32", "float64"], "Dtype policy of the models.")
flags.DEFINE_string("output", None, "JSON file of results; a Markdown table is put beside it.")
flags.DEFINE_integer("timeout", 1800, "Longest time for one architecture, s.")
flags.DEFINE_string("only", None, "Run this one in this process and print its result as JSON.")

_BAR = {"float32": 1e-4, "float64": 1e-9}


def architectures() -> list[str]:
    """Returns the names of all builder functions of `keras.applications`."""
    return [
        name
        for name, builder in vars(keras.applications).items()
        if inspect.isfunction(builder) and "weights" in inspect.signature(builder).parameters
    ]


def randomize(model: keras.Model, seed: int = 0) -> None:
    """Fills all weights with random numbers that keep the activations in range."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" not in str(weight.dtype):
            continue
        fan_in = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 4.0
        value = rng.standard_normal(weight.shape) / np.sqrt(fan_in)
        positive = weight.name in ("moving_variance", "variance", "gamma")
        weight.assign(np.abs(value) + 0.5 if positive else value)


def move_maps(branched: keras.Model, seed: int = 0) -> None:
    """Moves the reduce and expand maps away from selections, as training does."""
    rng = np.random.default_rng(seed)
    for layer in branched.layers:
        if isinstance(layer, kbp.ChannelMap):
            moved = [w + 0.1 * rng.standard_normal(w.shape) for w in layer.get_weights()]
            layer.set_weights(moved)


def error_between(expected: keras.Model, actual: keras.Model) -> float:
    """Returns the largest difference relative to the largest output."""
    inputs = random_inputs(expected, batch_size=2, seed=1)
    return relative_error(expected(inputs, training=False), actual(inputs, training=False))


def measure(name: str, width: float) -> dict:
    """Prunes one architecture and returns what the table says of it."""
    model = getattr(keras.applications, name)(weights=None)
    randomize(model)
    built = peak_memory_mib()
    start = time.perf_counter()
    groups = kbp.explain(model).groups
    branched = kbp.branch(model, kbp.plan(model, width=width))
    surgery = time.perf_counter() - start
    start_error = error_between(model, branched)
    kbp.set_alpha(branched, 0)
    move_maps(branched)
    start = time.perf_counter()
    compact = kbp.merge(branched, verify=False)
    surgery += time.perf_counter() - start
    return {
        "name": name,
        "groups": len(groups),
        "prunable": sum(group.prunable for group in groups),
        "reasons": sorted({re.sub(r"'.*?'", "…", g.reason) for g in groups if g.reason}),
        "parameters": [model.count_params(), compact.count_params()],
        "macs": [macs(model), macs(compact)],
        "start_error": start_error,
        "merge_error": error_between(branched, compact),
        "seconds": surgery,
        "memory_ratio": (peak_memory_mib() - built) / weights_mib(model),
    }


def macs(model: keras.Model) -> int:
    """Returns the MACs of one sample, of 224 × 224 pixels if the model leaves the size open."""
    return kbp.count_macs(model, tuple(size or 224 for size in model.input_shape[1:]))


def peak_memory_mib() -> float:
    """Returns the largest amount of memory this process has held so far (VmHWM), MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def weights_mib(model: keras.Model) -> float:
    """Returns the size of the weights, MiB."""
    return sum(w.numpy().nbytes for w in model.weights) / 2**20


def in_fresh_process(name: str) -> dict:
    """Returns the result of `measure` in a process of its own, or the error that ended it."""
    command = [sys.executable, __file__, f"--only={name}"]
    command += [f"--width={FLAGS.width}", f"--policy={FLAGS.policy}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FLAGS.timeout)
    except subprocess.TimeoutExpired:
        return {"name": name, "failed": f"took more than {FLAGS.timeout} s"}
    if done.returncode:
        return {"name": name, "failed": done.stderr.strip().splitlines()[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def as_markdown(results: list[dict]) -> str:
    """Returns the results as a Markdown table."""
    lines = [
        "| architecture | groups | prunable | parameters | share | MACs share | error | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        if "failed" in result:
            lines.append(f"| {result['name']} | failed: {result['failed']} |")
            continue
        (params, compact), (macs, compact_macs) = result["parameters"], result["macs"]
        lines.append(
            f"| {result['name']} | {result['groups']} | {result['prunable']} | {params:,} "
            f"| {compact / params:.3f} | {compact_macs / macs:.3f} | {result['merge_error']:.1e} "
            f"| {result['seconds']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(_: list[str]) -> None:
    """Runs the architectures that have no result yet and prints them all."""
    if FLAGS.only:
        keras.config.set_dtype_policy(FLAGS.policy)
        keras.config.set_floatx(FLAGS.policy)
        print(json.dumps(measure(FLAGS.only, FLAGS.width)))
        return
    path = Path(FLAGS.output) if FLAGS.output else None
    results = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else []
    for name in FLAGS.names or architectures():
        if any(result["name"] == name and "failed" not in result for result in results):
            continue
        results = [result for result in results if result["name"] != name]
        results.append(in_fresh_process(name))
        print(as_markdown(results[-1:]).splitlines()[-1], flush=True)
        if path:
            with kbp.atomic_write(path) as temporary:
                temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            with kbp.atomic_write(path.with_suffix(".md")) as temporary:
                temporary.write_text(as_markdown(results), encoding="utf-8")
    bad = [r["name"] for r in results if not r.get("merge_error", 1) <= _BAR[FLAGS.policy]]
    small = [
        r for r in results if "failed" not in r and r["parameters"][1] < 0.4 * r["parameters"][0]
    ]
    print(
        f"{len(results)} architectures, {len(small)} below 0.40 of their parameters; failed: {bad}"
    )
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
