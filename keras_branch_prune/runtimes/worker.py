"""What a worker process does: it loads one model, and runs or times it on command.

It imports NumPy and the runtime of the model, and nothing of the package around this folder. The
arguments of `Runner` come as a JSON object in `argv[1]`. Then every line of standard input is a
JSON object with a `command`, the name of a method of `Runner`, and its arguments; what the method
returns is written as one line of JSON to standard output. The end of the input ends the process.
"""

import json
import os
import sys
import time
from typing import Any

import numpy as np

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
    """A loaded model.

    Args:
        runtime: A key of `RUNTIMES`.
        path: The model.
        options: The fields of `Options`, by name.
        input_shape: See `process.start_worker`.
    """

    def __init__(self, runtime: str, path: str, options: dict[str, Any], input_shape: Any):
        self._input_shape = input_shape
        self._runtime = RUNTIMES[runtime]()
        # The memory of the imports, to be subtracted from that of the model.
        self._imported_mib = peak_ram_mib()
        self._runtime.load(path, Options(**options))
        self._runs: dict[int, Run] = {}

    def facts(self) -> dict[str, Any]:
        """Returns what measurements depend on: versions, GPU, FLOP of one run."""
        runtime = self._runtime
        return {"versions": runtime.versions, "gpu": runtime.gpu, "flop": runtime.flop}

    def run(self, names: list[str], source: str, target: str) -> list[str]:
        """Runs the model on stored inputs and stores its outputs.

        Args:
            names: Names of the inputs.
            source: An `.npz` file with one array per name, in this order.
            target: The `.npz` file to write.

        Returns:
            The names of the arrays in `target`, in their order.
        """
        with np.load(source) as stored:
            arrays = dict(zip(names, stored.values(), strict=True))
        outputs = self._runtime.prepare(arrays)()
        np.savez(target, *map(_storable, outputs.values()))
        return list(outputs)

    def warm_up(self, batch_size: int, calls: int) -> dict[str, float | None]:
        """Runs the model `calls` times on random inputs; returns the peak memory so far, MiB.

        RAM is what the process takes beyond its imports.
        """
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
        # Not timed: other processes have used the caches of the CPU meanwhile.
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


def _storable(array: Any) -> Any:
    """Returns an array in a dtype that `.npz` files know: they store no bfloat16."""
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def main() -> None:
    """Answers commands until the input ends."""
    # What libraries print to standard output goes to standard error, and not between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    runner = Runner(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        message = json.loads(line)
        answer = getattr(runner, message.pop("command"))(**message)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
