"""Prunes every architecture of `keras.applications` and checks each result numerically.

    python benchmarks/coverage.py --size=75 --output=docs/results/measured/coverage.json
    python benchmarks/coverage.py --names=ResNet50,ConvNeXtTiny --policies=float64

Every architecture is built without weights and softmax, and filled with random numbers, in
BatchNormalization too, so that mistakes show. It is planned at one width, branched, moved away from
its starting point, merged and compared, each in a process of its own. With `--output`, results are
kept one by one, so that an interrupted run continues (failures are tried again), and a table is
written beside them.
"""

from __future__ import annotations

import inspect
import itertools
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
from keras_branch_prune.graph import draw_inputs, relative_error

FLAGS = flags.FLAGS
flags.DEFINE_list("names", None, "Architectures; none: all of keras.applications.")
flags.DEFINE_float("width", 0.5, "Share of the channels that every group keeps.", 0, 1)
flags.DEFINE_integer("size", 96, "Height and width of the images, pixels.", 75)
flags.DEFINE_list("policies", ["float32", "float64"], "Dtype policies of the models.")
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
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    calibrate(model)


def calibrate(model: keras.Model) -> None:
    """Gives BatchNormalization the statistics of a few images, so that signals do not die out."""
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(draw_inputs(model, 4, seed=2), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def move_maps(branched: keras.Model, seed: int = 0) -> None:
    """Moves the reduce and expand maps away from selections, as training does."""
    rng = np.random.default_rng(seed)
    for layer in branched.layers:
        if isinstance(layer, kbp.ChannelMap):
            noise = (
                0.3 * rng.standard_normal(w.shape) / len(w) ** 0.5 for w in layer.get_weights()
            )
            layer.set_weights([w + n for w, n in zip(layer.get_weights(), noise, strict=True)])


def error_between(expected: keras.Model, actual: keras.Model) -> float:
    """Returns the largest difference relative to the largest output."""
    inputs = draw_inputs(expected, batch_size=2, seed=1)
    return relative_error(expected(inputs, training=False), actual(inputs, training=False))


def sensitivity(model: keras.Model) -> float:
    """Returns how much the outputs of two images differ, relative to the largest output.

    If it is tiny, the model hardly looks at its input, and comparing outputs shows little.
    """
    first, second = keras.ops.convert_to_numpy(model(draw_inputs(model, 2, seed=1)))
    return relative_error(first, second)


def measure(name: str, width: float, size: int) -> dict:
    """Prunes one architecture and returns what the table says of it.

    Args:
        name: Name of the builder function.
        width: Share of the channels that every group keeps.
        size: Height and width of the images, pixels.
    """
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classifier_activation=None
    )
    randomize(model)
    built = peak_memory_mib()
    start = time.perf_counter()
    groups = kbp.explain(model).groups
    branched = kbp.branch(model, kbp.plan(model, width=width))
    move_maps(branched)
    kbp.set_alpha(branched, 0)
    compact = kbp.merge(branched, verify=False)
    seconds = time.perf_counter() - start
    memory_ratio = (peak_memory_mib() - built) / weights_mib(model)
    merge_error = error_between(branched, compact)
    kbp.set_alpha(branched, 1)
    return {
        "name": name,
        "groups": len(groups),
        "prunable": sum(group.prunable for group in groups),
        "reasons": sorted({re.sub(r"'.*?'", "…", g.reason) for g in groups if g.reason}),
        "parameters": [model.count_params(), compact.count_params()],
        "macs": [kbp.count_macs(model), kbp.count_macs(compact)],
        "sensitivity": sensitivity(model),
        "start_error": error_between(model, branched),
        "merge_error": merge_error,
        "seconds": seconds,
        "memory_ratio": memory_ratio,
    }


def peak_memory_mib() -> float:
    """Returns the largest amount of memory this process has held so far (VmHWM), MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def weights_mib(model: keras.Model) -> float:
    """Returns the size of the weights, MiB."""
    return sum(w.numpy().nbytes for w in model.weights) / 2**20


def in_fresh_process(name: str, policy: str) -> dict:
    """Returns the result of `measure` in a process of its own, or the error that ended it."""
    command = [sys.executable, __file__, f"--only={name}"]
    command += [f"--width={FLAGS.width}", f"--policies={policy}", f"--size={FLAGS.size}"]
    result = {"name": name, "policy": policy}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FLAGS.timeout)
    except subprocess.TimeoutExpired:
        return {**result, "failed": f"took more than {FLAGS.timeout} s"}
    if done.returncode:
        return {**result, "failed": done.stderr.strip().splitlines()[-1][:300]}
    return {**result, **json.loads(done.stdout.splitlines()[-1])}


def as_markdown(results: list[dict]) -> str:
    """Returns the results as a Markdown table: one line per architecture, an error per policy."""
    lines = [
        "| architecture | groups | prunable | parameters | share | MACs share "
        "| merge error, float32 | float64 | s | memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted({result["name"] for result in results}):
        by_policy = {r["policy"]: r for r in results if r["name"] == name}
        errors = [_error_cell(by_policy.get(policy)) for policy in _BAR]
        done = [r for r in by_policy.values() if "failed" not in r]
        if not done:
            lines.append(f"| {name} | | | | | | {errors[0]} | {errors[1]} | | |")
            continue
        (params, compact), (macs, compact_macs) = done[0]["parameters"], done[0]["macs"]
        lines.append(
            f"| {name} | {done[0]['groups']} | {done[0]['prunable']} | {params:,} "
            f"| {compact / params:.3f} | {compact_macs / macs:.3f} | {errors[0]} | {errors[1]} "
            f"| {done[0]['seconds']:.1f} | {done[0]['memory_ratio']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _error_cell(result: dict | None) -> str:
    if result is None:
        return ""
    return f"failed: {result['failed']}" if "failed" in result else f"{result['merge_error']:.1e}"


def is_exact(result: dict) -> bool:
    """Whether an architecture was pruned, and both comparisons hold."""
    if "failed" in result:
        return False
    return result["start_error"] == 0 and result["merge_error"] <= _BAR[result["policy"]]


def run_all(names: list[str], path: Path | None) -> list[dict]:
    """Measures what has no result yet; keeps the results in a file one by one, if there is one."""
    results = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else []
    finished = {(r["name"], r["policy"]) for r in results if "failed" not in r}
    for name, policy in itertools.product(names, FLAGS.policies):
        if (name, policy) in finished:
            continue
        results = [r for r in results if (r["name"], r["policy"]) != (name, policy)]
        results.append(in_fresh_process(name, policy))
        print(as_markdown(results[-1:]).splitlines()[-1], flush=True)
        if path:
            with kbp.atomic_write(path) as temporary:
                temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            with kbp.atomic_write(path.with_suffix(".md")) as temporary:
                temporary.write_text(as_markdown(results), encoding="utf-8")
    return results


def main(_: list[str]) -> None:
    """Runs the architectures that have no result yet, prints them all and a summary."""
    if FLAGS.only:
        (policy,) = FLAGS.policies
        keras.config.set_dtype_policy(policy)
        keras.config.set_floatx(policy)
        print(json.dumps(measure(FLAGS.only, FLAGS.width, FLAGS.size)))
        return
    path = Path(FLAGS.output) if FLAGS.output else None
    results = run_all(FLAGS.names or architectures(), path)
    bad = [(r["name"], r["policy"]) for r in results if not is_exact(r)]
    shares = [r["parameters"][1] / r["parameters"][0] for r in results if "failed" not in r]
    print(
        f"{len(results)} runs, {sum(share < 0.4 for share in shares)} below 0.40 of their "
        f"parameters; not exact: {bad}"
    )
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
