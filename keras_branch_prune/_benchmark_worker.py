"""The far end of `worker.py`, run as a script: loads one SavedModel and times its signature.

Imports TensorFlow (which imports Keras itself) and NumPy only. The options come as a JSON object in
`argv[1]`; then every line of standard input is a JSON object with a command (`warm_up` or `time`)
and its arguments, answered by one line of JSON on standard output. The end of the input ends the
process.
"""

import json
import os
import sys
import time
from typing import Any


def peak_ram_mib() -> float | None:
    """Returns the process' peak resident memory, MiB; None where the system does not tell."""
    try:
        with open("/proc/self/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["VmHWM"].split()[0]) / 1024
    except (OSError, KeyError):
        return None


class Runner:
    """A loaded SavedModel with random inputs for it."""

    def __init__(self, options: dict[str, Any]):
        import tensorflow as tf

        self._tf = tf
        self._imported_mib = peak_ram_mib()
        self._input_shape = options["input_shape"]
        self._gpu = self._prepare_device(options)
        # Without this reference the variables of the signature would be collected.
        self._loaded = tf.saved_model.load(options["path"])
        self._serve = self._loaded.signatures["serving_default"]
        self._inputs: dict[int, dict[str, Any]] = {}

    def _prepare_device(self, options: dict[str, Any]) -> str | None:
        config = self._tf.config
        if options["threads"]:
            config.threading.set_intra_op_parallelism_threads(options["threads"])
            config.threading.set_inter_op_parallelism_threads(1)
        gpus = config.list_physical_devices("GPU")
        if options["device"] == "cpu":
            config.set_visible_devices([], "GPU")
            return None
        if not gpus:
            raise SystemExit("TensorFlow sees no GPU")
        config.set_visible_devices(gpus[:1], "GPU")
        config.experimental.set_memory_growth(gpus[0], True)
        return config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")

    def facts(self) -> dict[str, Any]:
        """Returns what the reader of a result must know."""
        return {"tensorflow": self._tf.__version__, "gpu": self._gpu}

    def warm_up(self, batch_size: int, calls: int) -> dict[str, float | None]:
        """Runs some calls; returns the peak memory so far, over that of the bare import."""
        for _ in range(calls):
            self._call(batch_size)
        ram, vram = peak_ram_mib(), None
        if self._gpu:
            vram = self._tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
        return {"ram_mib": ram and ram - (self._imported_mib or 0.0), "vram_mib": vram}

    def time(self, batch_size: int, seconds: float, calls: int) -> dict[str, list[float]]:
        """Returns the milliseconds of every call, for at least `seconds` and `calls`."""
        milliseconds: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(milliseconds) < calls:
            start = time.perf_counter()
            self._call(batch_size)
            milliseconds.append((time.perf_counter() - start) * 1e3)
        return {"ms": milliseconds}

    def _call(self, batch_size: int) -> None:
        if batch_size not in self._inputs:
            specs = self._serve.structured_input_signature[1]
            self._inputs[batch_size] = {
                name: random_tensor(name, spec, batch_size, self._input_shape)
                for name, spec in specs.items()
            }
        outputs = self._serve(**self._inputs[batch_size])
        # A GPU computes asynchronously: reading the outputs waits for them.
        for output in outputs.values():
            output.numpy()


def random_tensor(name: str, spec: Any, batch_size: int, input_shape: Any) -> Any:
    """Returns a tensor of values in [0, 1) or {0, 1} for one input of the signature."""
    import numpy as np
    import tensorflow as tf

    if spec.shape[0] not in (None, batch_size):
        raise SystemExit(f"input '{name}' has the fixed batch size {spec.shape[0]}")
    if spec.dtype == tf.string:
        raise SystemExit(f"input '{name}' takes strings, for which there are no random values")
    shape = list(spec.shape[1:])
    if None in shape and input_shape is not None:
        shape = input_shape[name] if isinstance(input_shape, dict) else input_shape
    if None in shape:
        raise SystemExit(f"input '{name}' has open dimensions, {shape}: pass `input_shape=`")
    rng = np.random.default_rng(0)
    size = (batch_size, *shape)
    array = rng.random(size) if spec.dtype.is_floating else rng.integers(0, 2, size)
    return tf.cast(tf.constant(array), spec.dtype)


def main() -> None:
    """Answers commands until the input ends."""
    # A script's folder is searched first: the package's modules would hide others of their name.
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]
    # Whatever libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: Any) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    runner = Runner(json.loads(sys.argv[1]))
    commands: dict[str, Any] = {"warm_up": runner.warm_up, "time": runner.time}
    answer(runner.facts())
    for line in sys.stdin:
        message = json.loads(line)
        answer(commands[message.pop("command")](**message))


if __name__ == "__main__":
    main()
