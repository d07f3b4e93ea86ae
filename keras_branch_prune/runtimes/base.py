"""What a runtime is to a worker process: imported when it is made, then given a model, then run.

The modules of this folder import each other relatively and nothing of the package around them: a
worker loads the folder as a package of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

Run = Callable[[], dict[str, Any]]
"""Runs a model on inputs that were given before; waits for the outputs, arrays by name."""


class Input(NamedTuple):
    """One input of a model, such as `Input((None, 8, 8, 3), "float32")`; None is left open."""

    shape: tuple[int | None, ...]
    dtype: str


class Options(NamedTuple):
    """How to run a model.

    Args:
        threads: Number of threads on the CPU; None leaves it to the runtime.
        device: "cpu" or "gpu"; "gpu" only for the runtimes on TensorFlow.
        reshape: Whether a runtime that can is to compile the model for one input shape at a time.
    """

    threads: int | None = None
    device: str = "cpu"
    reshape: bool = False


class Runtime(ABC):
    """A runtime; making an instance imports the library, `load` gives it a model.

    Attributes:
        versions: Versions of the libraries, by their titles.
        gpu: Name of the GPU that is used, if one is.
        flop: Floating-point operations of one run, where the task fixes them.
    """

    versions: dict[str, str]
    gpu: str | None = None
    flop: int | None = None

    @abstractmethod
    def load(self, path: str, options: Options) -> None:
        """Loads a model.

        Args:
            path: The file or folder of the model.
            options: How to run it.
        """

    @abstractmethod
    def inputs(self) -> dict[str, Input]:
        """Returns the inputs by name."""

    @abstractmethod
    def prepare(self, arrays: dict[str, Any]) -> Run:
        """Returns what runs the model on these inputs, arrays by name."""

    def vram_mib(self) -> float | None:
        """Returns the peak GPU memory, MiB; None if there is no GPU in use."""
        return None
