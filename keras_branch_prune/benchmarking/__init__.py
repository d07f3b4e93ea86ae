"""Measures models fairly, side by side."""
