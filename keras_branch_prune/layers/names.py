"""The names by which layers are known: to Keras, and in the pruned branch."""

from __future__ import annotations

PACKAGE = "keras_branch_prune"
"""Under which Keras knows the classes of this package; saved models are found by it."""

PRUNED_SUFFIX = "__pruned"
"""How the names of layers in the pruned branch end."""
