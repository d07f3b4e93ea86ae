"""Starts a process that runs one model, and talks with it; its own side is in `worker.py`."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .base import Options

# Loads this folder as a package of its own, `runtimes`: an export must run where neither Keras nor
# this package is installed, so the process must not import the package around the folder.
_START = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("runtimes", sys.argv.pop(1))
sys.modules["runtimes"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["runtimes"])
importlib.import_module("runtimes.worker").main()
"""
_PACKAGE = Path(__file__).absolute().with_name("__init__.py")
_ERROR_TAIL = 2000


class WorkerError(RuntimeError):
    """A worker process ended or did not answer; with the end of its error output."""


class Worker:
    """A running process that answers one command at a time. Made by `start_worker`."""

    def __init__(self, label: str, process: Any, stderr: Any, timeout: float):
        self._label, self._process, self._stderr, self._timeout = label, process, stderr, timeout
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, command: str, **arguments: Any) -> Any:
        """Calls a method of `worker.Runner` in the process and returns its result.

        Args:
            command: The method: "facts", "warm_up", "time" or "run". The first one asked for waits
                until the model is loaded.
            arguments: Its arguments, values as in JSON.

        Raises:
            WorkerError: If the process ended or does not answer in time.
        """
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failure("ended early") from error
        try:
            line = self._answers.get(timeout=self._timeout)
        except queue.Empty:
            raise self._failure(f"gave no answer in {self._timeout} s") from None
        if not line:
            raise self._failure("ended early")
        return json.loads(line)

    def end(self) -> None:
        """Kills the process and closes its pipes."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        # Closing flushes the buffer into a pipe that nobody reads any more.
        with suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        # In a thread of its own, for reading a pipe takes no timeout, and a queue does.
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _failure(self, what: str) -> WorkerError:
        self._stderr.seek(0)
        tail = self._stderr.read().decode(errors="replace")[-_ERROR_TAIL:].strip()
        return WorkerError(f"{self._label} {what}. Its error output:\n{tail}")


@contextmanager
def start_worker(
    label: str,
    runtime: str,
    path: str | os.PathLike[str],
    timeout: float,
    options: Options | None = None,
    input_shape: Any = None,
) -> Iterator[Worker]:
    """Starts a process that loads a model, and ends it at the end of the block.

    Args:
        label: What messages call the process, as the subject of a sentence.
        runtime: What runs the model: a key of `table.RUNTIMES`.
        path: The file or folder of the model.
        timeout: How long to wait for an answer, s.
        options: How to run it; `None` takes the defaults.
        input_shape: Shape of one sample, or a dict of them by input name, for random inputs of
            models that leave it open.

    Yields:
        The worker, which may still be loading the model.
    """
    options = options or Options()
    task = {
        "runtime": runtime,
        "path": os.path.abspath(path),
        "options": options._asdict(),
        "input_shape": input_shape,
    }
    # `python -c` looks for modules in the working directory first: an empty one hides none.
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", _START, str(_PACKAGE), json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=empty,
            env=_environment(options.device),
            text=True,
        )
        worker = Worker(label, process, stderr, timeout)
        try:
            yield worker
        finally:
            worker.end()


def _environment(device: str) -> dict[str, str]:
    """Returns this process' environment, with paths that hold in another working directory."""
    environment = dict(os.environ)
    folders = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, folders))
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
    return environment
