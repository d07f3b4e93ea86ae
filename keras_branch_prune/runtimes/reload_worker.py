"""The far end of `verify.py`, run as a script: runs an exported model on stored inputs.

Imports NumPy and the runtime of the format only. The arguments are the runtime, the path of the
model, the input file, the output file, and a JSON object with the names of inputs and outputs and
the number of cases. In the files input or output i of case k is the array `k_i`.
"""

import json
import sys
from typing import Any

import numpy as np

from .base import Options
from .table import RUNTIMES


def main() -> None:
    """Runs all cases and stores their outputs."""
    backend, path, source, target, task = sys.argv[1:]
    names = json.loads(task)
    runtime = RUNTIMES[backend]()
    runtime.load(path, Options())
    results: dict[str, Any] = {}
    with np.load(source) as arrays:
        for case in range(names["cases"]):
            inputs = {name: arrays[f"{case}_{i}"] for i, name in enumerate(names["inputs"])}
            outputs = runtime.prepare(inputs)()
            if set(outputs) != set(names["outputs"]):
                raise SystemExit(f"outputs {sorted(outputs)} instead of {sorted(names['outputs'])}")
            for i, name in enumerate(names["outputs"]):
                results[f"{case}_{i}"] = _storable(outputs[name])
    np.savez(target, **results)


def _storable(array: Any) -> Any:
    return array.astype("float32") if array.dtype.name == "bfloat16" else array
