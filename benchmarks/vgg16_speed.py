"""Measures how much faster a narrow VGG16 is than the full one, as exported SavedModels.

    python benchmarks/vgg16_speed.py --threads=1

The weights are random: speed does not depend on them. The first width is what the others are
compared with. At 0.34375 the MACs ratio is 8.4.
"""

import json
from pathlib import Path

from absl import app, flags

from keras_branch_prune.benchmark import benchmark
from keras_branch_prune.zoo import vgg16

FLAGS = flags.FLAGS
flags.DEFINE_multi_float("width", [1.0, 0.34375], "Factors on VGG16's 64 to 512 filters.", 0.0)
flags.DEFINE_integer("size", 32, "Height and width of the images, pixels.", 1)
flags.DEFINE_multi_integer("batch_size", [1, 64], "Images per call.", 1)
flags.DEFINE_integer("threads", None, "Intra-op threads; TensorFlow's default if not given.", 1)
flags.DEFINE_integer("rounds", 7, "Turns that every variant takes.", 1)
flags.DEFINE_float("seconds", 1.0, "Least time of one turn at one batch size, s.", 0.0)
flags.DEFINE_string("json", None, "File to write the result to.")


def main(argv: list[str]) -> None:
    """Builds the models, measures them and prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    models = {
        f"width {width:g}": vgg16(width=width, input_shape=(FLAGS.size, FLAGS.size, 3))
        for width in FLAGS.width
    }
    result = benchmark(
        models,
        FLAGS.batch_size,
        rounds=FLAGS.rounds,
        seconds=FLAGS.seconds,
        threads=FLAGS.threads,
    )
    print(result)
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps(result.to_json(), indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
