"""Runs the scripts of `examples/` as a user does, in processes of their own."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"

# Many lines of flags in one process, which imports TensorFlow once.
REFUSALS = """
import importlib, json, sys

script, *lines = sys.argv[1:]
main = importlib.import_module(script).main
from absl import flags

for line in lines:
    flags.FLAGS.unparse_flags()
    try:
        flags.FLAGS([script, *json.loads(line)])
        main([])
        print("accepted")
    except Exception as error:
        print(json.dumps(str(error)))
"""


@dataclasses.dataclass(frozen=True)
class Example:
    """A script and the flags that make it short.

    Args:
        name: Its name, without `.py`.
        flags: Flags of every run; flags of a single run come behind them.
    """

    name: str
    flags: Sequence[str]

    def command(self, folder: Path, *flags: str) -> list[str]:
        script = str(EXAMPLES / f"{self.name}.py")
        return [sys.executable, script, f"--output_dir={folder}", *self.flags, *flags]

    def run(self, folder: Path, *flags: str) -> str:
        """Runs to the end and returns what was printed."""
        process = _run(self.command(folder, *flags), timeout=900)
        assert process.returncode == 0, process.stderr[-3000:]
        return process.stdout

    def refusals(self, *runs: tuple[Path, Sequence[str]]) -> list[str]:
        """Calls it with a folder and flags at a time, which must be refused; returns the errors."""
        lines = [json.dumps(self.command(folder, *flags)[2:]) for folder, flags in runs]
        process = _run([sys.executable, "-c", REFUSALS, self.name, *lines], timeout=300)
        assert process.returncode == 0, process.stderr[-3000:]
        return [json.loads(line) for line in process.stdout.splitlines()[-len(runs) :]]

    def kill_when(self, folder: Path, file: str, *flags: str) -> None:
        """Kills it once there is such a file."""
        process = subprocess.Popen(self.command(folder, *flags), stdout=subprocess.DEVNULL)
        while not list(folder.glob(file)):
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()


def _run(command: Sequence[str], timeout: float) -> Any:
    return subprocess.run(
        command, capture_output=True, text=True, cwd=EXAMPLES, timeout=timeout, check=False
    )


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
