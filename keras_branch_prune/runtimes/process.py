"""The near end of a process that measures one model; the far end is `_benchmark_worker.py`."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Makes this folder a package of its own: the process needs nothing of the one around it.
_START = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("runtimes", sys.argv.pop(1))
sys.modules["runtimes"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["runtimes"])
importlib.import_module("runtimes." + sys.argv.pop(1)).main()
"""
_PACKAGE = Path(__file__).with_name("__init__.py")
_ERROR_TAIL = 2000


def command_line(module: str, *arguments: str) -> list[str]:
    """Returns the command that runs `main` of a module of this folder in a fresh process."""
    return [sys.executable, "-c", _START, str(_PACKAGE), module, *arguments]


class BenchmarkError(RuntimeError):
    """A process that was to be measured ended or did not answer."""


class Worker:
    """A running process: one question, one answer. Made by `start_worker`."""

    def __init__(self, label: str, process: Any, stderr: Any, timeout: float):
        self._label, self._process, self._stderr, self._timeout = label, process, stderr, timeout
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ready(self) -> Any:
        """Waits until the model is loaded; returns the facts that the process tells then."""
        return self._answer()

    def ask(self, **message: Any) -> Any:
        """Sends a command and returns the answer; raises `BenchmarkError` if there is none."""
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failure("ended early") from error
        return self._answer()

    def end(self) -> None:
        """Kills the process and closes its pipes."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        # What was still to be written cannot be: the process is gone.
        with suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _answer(self) -> Any:
        try:
            line = self._answers.get(timeout=self._timeout)
        except queue.Empty:
            raise self._failure(f"gave no answer in {self._timeout} s") from None
        if not line:
            raise self._failure("ended early")
        return json.loads(line)

    def _failure(self, what: str) -> BenchmarkError:
        self._stderr.seek(0)
        tail = self._stderr.read().decode(errors="replace")[-_ERROR_TAIL:].strip()
        return BenchmarkError(
            f"The process that measures {self._label} {what}. Its error output:\n{tail}"
        )


@contextmanager
def start_worker(label: str, options: Mapping[str, Any], timeout: float) -> Iterator[Worker]:
    """Starts a process for one variant and ends it at the end of the block.

    Args:
        label: What error messages call it.
        options: What the script takes: `backend`, `path`, `device`, `threads`, `input_shape`.
        timeout: How long to wait for an answer, s.

    Yields:
        The worker; call its `ready` first.
    """
    environment = dict(os.environ)
    if options["device"] == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
    if options.get("backend") == "keras":
        # The models may have layers of this package, wherever it was imported from.
        known = [str(_PACKAGE.parents[2]), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, known))
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            command_line("worker", json.dumps(options)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            text=True,
        )
        worker = Worker(label, process, stderr, timeout)
        try:
            yield worker
        finally:
            worker.end()
