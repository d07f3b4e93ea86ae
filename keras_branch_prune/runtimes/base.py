"""What a worker process knows of a runtime: how it is imported, given a model, and run."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

Run = Callable[[], dict[str, Any]]
"""Runs a model on inputs that were given before; returns arrays by name once they are there."""


class Input(NamedTuple):
    """One input of a model; the dimensions that are left open are None."""

    shape: tuple[int | None, ...]
    dtype: str


class Options(NamedTuple):
    """How to run a model.

    Args:
        threads: Threads on the CPU; None leaves them to the runtime.
        device: "cpu" or "gpu"; only runtimes on TensorFlow have another than the CPU.
        reshape: Whether a runtime that can is to prepare the model for one shape at a time.
    """

    threads: int | None = None
    device: str = "cpu"
    reshape: bool = False


class Runtime(ABC):
    """A runtime; making it imports it, `load` gives it a model."""

    versions: dict[str, str]
    gpu: str | None = None
    flop: int | None = None
    """Floating-point operations of one run, where they are part of the task."""

    @abstractmethod
    def load(self, path: str, options: Options) -> None:
        """Loads a model.

        Args:
            path: The model.
            options: How to run it.
        """

    @abstractmethod
    def inputs(self) -> dict[str, Input]:
        """Returns the inputs by name."""

    @abstractmethod
    def prepare(self, arrays: dict[str, Any]) -> Run:
        """Returns what runs the model on these inputs."""

    def vram_mib(self) -> float | None:
        """Returns the peak GPU memory, MiB; None if there is no GPU in use."""
        return None
