"""Writes a model for a runtime, and proves that it computes the same there."""
