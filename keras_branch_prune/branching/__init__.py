"""Puts a narrow branch into a model, fits it to the original, and multiplies it out again."""
