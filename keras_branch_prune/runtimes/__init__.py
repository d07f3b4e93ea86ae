"""Runs a model in a process of its own, which knows nothing of this package."""
