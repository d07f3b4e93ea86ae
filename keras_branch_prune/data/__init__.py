"""Samples in every form that `fit` takes, also when they are larger than memory."""
