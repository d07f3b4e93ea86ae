"""How the layers of the pruned branch are known by their names."""

from __future__ import annotations

PRUNED_SUFFIX = "__pruned"
"""How the names of layers in the pruned branch end."""
