"""Measures how much faster narrow models are, by every runtime, and how much of it MACs promise.

    python benchmarks/speed.py --json=speed.json --plot=speed.png

Models are pruned in one shot, without data, and have random weights as if trained. VGG16 is the one
of the zoo, at 32 px; any other name is an architecture of `keras.applications`, at 64 px. Original
and compact model run side by side, with every backend and number of threads in a process of its
own. With several models the name of each is put into the names of the files.
"""

import json
from pathlib import Path

from _architectures import build, pruned
from absl import app, flags, logging

import keras_branch_prune as kbp

FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["VGG16", "ResNet50"], "VGG16, or names in keras.applications.")
flags.DEFINE_float("width", 0.34375, "Share of the channels of every group.", 0.0, 1.0)
flags.DEFINE_integer("round_to", 16, "Widths are multiples of it.", 1)
flags.DEFINE_list(
    "backends", ["keras", "saved_model", "litert", "onnxruntime", "openvino"], "What runs them."
)
flags.DEFINE_list("threads", ["1", "2"], 'Numbers of threads; "default": the runtime chooses.')
flags.DEFINE_list("batch_sizes", ["1", "64"], "Images per call.")
flags.DEFINE_integer("rounds", 7, "Turns that every process takes.", 1)
flags.DEFINE_float("seconds", 0.5, "Least time of one turn at one batch size, s.", 0.0)
flags.DEFINE_string("json", None, "File to write the results to.")
flags.DEFINE_string("plot", None, "Picture to write; needs matplotlib.")


def measure(name: str) -> kbp.BenchmarkResult:
    """Measures one architecture."""
    original = build(name)
    return kbp.benchmark(
        {name: original, "compact": pruned(original, FLAGS.width, FLAGS.round_to)},
        [int(size) for size in FLAGS.batch_sizes],
        backends=FLAGS.backends,
        threads=[None if count == "default" else int(count) for count in FLAGS.threads],
        rounds=FLAGS.rounds,
        seconds=FLAGS.seconds,
    )


def shares(result: kbp.BenchmarkResult) -> list[str]:
    """Returns one line per measurement: the speed-up as a share of what the MACs promise."""
    ratio = result.macs_ratio()
    lines = [f"MACs ratio {ratio:.2f}; speed-up / MACs ratio:"]
    for timing in result.variant().timings:
        where = {"device": timing.device, "backend": timing.backend, "threads": timing.threads}
        share = result.speedup(timing.batch_size, **where) / ratio
        low, high = (x / ratio for x in result.speedup_interval(timing.batch_size, **where))
        threads = "default" if timing.threads is None else timing.threads
        lines.append(
            f"  {timing.backend:12} {timing.device}  threads {threads}  "
            f"batch {timing.batch_size:<3}  {share:.2f} ({low:.2f}–{high:.2f})"
        )
    return lines


def output(path: str, name: str) -> Path:
    """Returns the path of an output file of one model."""
    named = Path(path)
    return named if len(FLAGS.models) == 1 else named.with_stem(f"{named.stem}_{name}")


def main(argv: list[str]) -> None:
    """Measures all models, prints the tables, and writes what was asked for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    for name in FLAGS.models:
        result = measure(name)
        print(result, *shares(result), "", sep="\n", flush=True)
        if FLAGS.json:
            with kbp.atomic_write(output(FLAGS.json, name)) as temporary:
                temporary.write_text(json.dumps(result.to_json(), indent=2) + "\n")
        if FLAGS.plot:
            kbp.plot_speedup(result, output(FLAGS.plot, name))


if __name__ == "__main__":
    app.run(main)
