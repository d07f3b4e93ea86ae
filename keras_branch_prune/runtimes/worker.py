"""The far end of `worker.py`, run as a script: loads one model and times it.

Imports NumPy and the runtime of the model only. The options come as a JSON object in `argv[1]`:
`backend`, `path`, `device`, `threads`, `input_shape`. Then every line of standard input is a JSON
object with a command (`warm_up` or `time`) and its arguments, answered by one line of JSON on
standard output. The end of the input ends the process.
"""

import json
import os
import sys
import time
from typing import Any

from .base import Input, Options, Run
from .table import RUNTIMES


def peak_ram_mib() -> float | None:
    """Returns the process' peak resident memory, MiB; None where the system does not tell."""
    try:
        with open("/proc/self/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["VmHWM"].split()[0]) / 1024
    except (OSError, KeyError):
        return None


class Runner:
    """A loaded model with random inputs for it."""

    def __init__(self, options: dict[str, Any]):
        import numpy  # noqa: F401 - the runtimes need it, so it is not part of a model's memory

        self._input_shape = options["input_shape"]
        self._runtime = RUNTIMES[options["backend"]]()
        self._imported_mib = peak_ram_mib()
        how = Options(options["threads"], options["device"], reshape=True)
        self._runtime.load(options["path"], how)
        self._runs: dict[int, Run] = {}

    def facts(self) -> dict[str, Any]:
        """Returns what the reader of a result must know."""
        runtime = self._runtime
        return {"versions": runtime.versions, "gpu": runtime.gpu, "flop": runtime.flop}

    def warm_up(self, batch_size: int, calls: int) -> dict[str, float | None]:
        """Runs some calls; returns the peak memory so far, over that of the bare import."""
        # Some runtimes prepare the model for every batch size; nobody keeps several in memory.
        self._runs.clear()
        self._prepare(batch_size, calls)
        ram = peak_ram_mib()
        ram = ram and ram - (self._imported_mib or 0.0)
        return {"ram_mib": ram, "vram_mib": self._runtime.vram_mib()}

    def time(self, batch_size: int, seconds: float, calls: int) -> dict[str, list[float]]:
        """Returns the milliseconds of every call, for at least `seconds` and `calls`."""
        if batch_size not in self._runs:
            self._prepare(batch_size, calls)
        run, milliseconds = self._runs[batch_size], list[float]()
        # Others have had the caches meanwhile.
        run()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(milliseconds) < calls:
            start = time.perf_counter()
            run()
            milliseconds.append((time.perf_counter() - start) * 1e3)
        return {"ms": milliseconds}

    def _prepare(self, batch_size: int, calls: int) -> None:
        arrays = {
            name: random_array(name, value, batch_size, self._input_shape)
            for name, value in self._runtime.inputs().items()
        }
        self._runs[batch_size] = self._runtime.prepare(arrays)
        for _ in range(calls):
            self._runs[batch_size]()


def random_array(name: str, value: Input, batch_size: int, input_shape: Any) -> Any:
    """Returns an array of values in [0, 1) or {0, 1} for one input of a model."""
    import numpy as np

    if value.shape[0] not in (None, batch_size):
        raise SystemExit(f"input '{name}' has the fixed batch size {value.shape[0]}")
    shape: list[Any] = list(value.shape[1:])
    if None in shape and input_shape is not None:
        shape = input_shape[name] if isinstance(input_shape, dict) else input_shape
    if None in shape:
        raise SystemExit(f"input '{name}' has open dimensions, {shape}: pass `input_shape=`")
    rng, size = np.random.default_rng(0), (batch_size, *shape)
    if "float" in value.dtype:
        # NumPy has no bfloat16: the runtimes that take it cast.
        return rng.random(size).astype("float32" if value.dtype == "bfloat16" else value.dtype)
    if "int" in value.dtype or value.dtype == "bool":
        return rng.integers(0, 2, size).astype(value.dtype)
    raise SystemExit(f"input '{name}' takes {value.dtype}, for which there are no random values")


def main() -> None:
    """Answers commands until the input ends."""
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
