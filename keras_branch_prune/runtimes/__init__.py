"""Runs a model in a process of its own, which knows nothing of this package."""

from .base import Options
from .process import Worker, WorkerError, start_worker

__all__ = [
    "Options",
    "Worker",
    "WorkerError",
    "start_worker",
]
