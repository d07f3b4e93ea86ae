"""Runs a model in a process of its own, which knows nothing of this package."""

from .process import BenchmarkError, Worker, command_line, start_worker

__all__ = [
    "BenchmarkError",
    "Worker",
    "command_line",
    "start_worker",
]
