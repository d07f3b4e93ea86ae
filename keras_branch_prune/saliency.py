"""Scores that say which channels of a group to keep: the higher, the more worth keeping."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from keras_branch_prune.graph import Unit
from keras_branch_prune.rules import output_kernel

Saliency = Callable[[Sequence[Unit], np.random.Generator], np.ndarray]
"""Maps the producers of a group to one score per channel, shape `(channels,)`."""


def l1(producers: Sequence[Unit], rng: np.random.Generator) -> np.ndarray:
    """L1 norm of each output channel's kernel, averaged over the producers (Li et al., 2017)."""
    norms = [np.abs(output_kernel(unit).astype(np.float64)).sum(axis=0) for unit in producers]
    return np.stack(norms).mean(axis=0)


def random(producers: Sequence[Unit], rng: np.random.Generator) -> np.ndarray:
    """Uniform noise: the control that every criterion has to beat."""
    return rng.uniform(size=output_kernel(producers[0]).shape[1:])


SALIENCIES: dict[str, Saliency] = {"l1": l1, "random": random}


def kept_channels(scores: np.ndarray, width: int) -> tuple[int, ...]:
    """Returns the indices of the `width` highest scores, ascending; the earlier wins a tie."""
    order = np.argsort(-scores, kind="stable")
    return tuple(sorted(int(index) for index in order[:width]))
