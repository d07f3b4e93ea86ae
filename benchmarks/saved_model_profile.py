"""Asks where the time of a SavedModel goes at a small batch: kernels, or what lies between them.

    python benchmarks/saved_model_profile.py
    python benchmarks/saved_model_profile.py --model=ResNet50 --batch_size=64 --calls=20

A model and its pruned model are exported, and each is run with every number of threads in a
process of its own. The median time of a call is that of the signature, as `kbp.benchmark` takes it;
what kernels take is TensorFlow's own trace of every node, the medians over the traced calls added
up. Beside them stands what the convolutions would take at the speed at which the original runs them
on one thread: the time that the MACs promise. How many cores were busy, on average, and how often
threads gave way to wait, per call, is the operating system's account of the calls that are timed.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _architectures import build, pruned
from absl import app, flags, logging

import keras_branch_prune as kbp

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "VGG16", "VGG16, or a name in keras.applications.")
flags.DEFINE_float("width", 0.34375, "Share of the channels of every group.", 0.0, 1.0)
flags.DEFINE_integer("round_to", 16, "Widths are multiples of it.", 1)
flags.DEFINE_integer("batch_size", 1, "Images per call.", 1)
flags.DEFINE_multi_integer("threads", [1, 2], "Intra-op threads, with one inter-op thread.", 1)
flags.DEFINE_integer("calls", 300, "Calls that are timed, and as many that are traced.", 1)
flags.DEFINE_string("json", None, "File to write the results to.")

_WARM_UP_CALLS = 20
_CONVOLUTIONS = "Conv2D"


def profile(path: str, threads: int, batch_size: int, calls: int) -> dict[str, Any]:
    """Returns what a call takes: of the clock, of the cores, in switches, and of all kernels."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    ((name, spec),) = serve.structured_input_signature[1].items()
    images = np.random.default_rng(0).random((batch_size, *spec.shape[1:]), "float32")
    tensor = tf.constant(images)

    def call() -> None:
        for output in serve(**{name: tensor}).values():
            output.numpy()

    for _ in range(_WARM_UP_CALLS):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF)
    wall = [_milliseconds(call) for _ in range(calls)]
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {
        "call_ms": statistics.median(wall),
        "cores": cpu_seconds * 1e3 / sum(wall),
        "waits": (after.ru_nvcsw - before.ru_nvcsw) / calls,
        "kernels_ms": _kernels(path, images, calls),
    }


def _milliseconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _kernels(path: str, images: np.ndarray, calls: int) -> dict[str, float]:
    """Returns the ms that kernels take in a call, by the kind of operation."""
    import tensorflow as tf

    v1 = tf.compat.v1
    nodes: dict[str, list[float]] = {}
    with tf.Graph().as_default(), v1.Session() as session:
        signature = v1.saved_model.load(session, ["serve"], path).signature_def["serving_default"]
        feed = {next(iter(signature.inputs.values())).name: images}
        fetch = [output.name for output in signature.outputs.values()]
        options = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)
        for index in range(_WARM_UP_CALLS + calls):
            metadata = v1.RunMetadata()
            session.run(fetch, feed, options=options, run_metadata=metadata)
            if index >= _WARM_UP_CALLS:
                for device in metadata.step_stats.dev_stats:
                    for node in device.node_stats:
                        kind = node.timeline_label.rpartition(" = ")[2].partition("(")[0]
                        took = (node.op_end_rel_nanos - node.op_start_rel_nanos) / 1e6
                        nodes.setdefault(f"{kind}:{node.node_name}", []).append(took)
    kinds: dict[str, float] = {}
    for name, times in nodes.items():
        kind = _CONVOLUTIONS if _CONVOLUTIONS in name else name.partition(":")[0]
        kinds[kind] = kinds.get(kind, 0.0) + statistics.median(times)
    return kinds


def rows(found: dict[str, dict[str, Any]], macs: dict[str, int]) -> list[str]:
    """Returns the table: one line per model and number of threads."""
    first = next(name for name in found if name.startswith("original"))
    speed = found[first]["kernels_ms"][_CONVOLUTIONS] / macs["original"]
    lines = [
        "| model | threads | call, ms | convolutions, ms | other kernels, ms | between kernels, ms "
        "| convolutions at the original's speed, ms | cores busy | waits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, result in found.items():
        name, threads = key.split(", ")
        convolutions = result["kernels_ms"][_CONVOLUTIONS]
        others = sum(result["kernels_ms"].values()) - convolutions
        between = result["call_ms"] - convolutions - others
        times = (result["call_ms"], convolutions, others, between, speed * macs[name])
        cells = " | ".join(f"{ms:.3f}" for ms in times)
        use = f"{result['cores']:.2f} | {result['waits']:.0f}"
        lines.append(f"| {name} | {threads} | {cells} | {use} |")
    return lines


def main(argv: list[str]) -> None:
    """Exports both models, profiles them and prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    original = build(FLAGS.model)
    models = {"original": original, "compact": pruned(original, FLAGS.width, FLAGS.round_to)}
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        # Every process is to start its own TensorFlow, with its own number of threads.
        context = multiprocessing.get_context("spawn")
        for name, model in models.items():
            path = str(kbp.export_saved_model(model, Path(scratch, name), verify=False))
            for threads in FLAGS.threads:
                arguments = (path, threads, FLAGS.batch_size, FLAGS.calls)
                with context.Pool(1) as pool:
                    found[f"{name}, {threads}"] = pool.apply(profile, arguments)
    macs = {name: kbp.count_macs(model) for name, model in models.items()}
    print(*rows(found, macs), sep="\n")
    if FLAGS.json:
        with kbp.atomic_write(FLAGS.json) as temporary:
            temporary.write_text(json.dumps({"macs": macs, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
