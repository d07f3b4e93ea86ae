"""Scores that say which channels of a group to keep: the higher, the more worth keeping."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from keras_branch_prune.rules import output_kernel
from keras_branch_prune.tracker import ChannelRun

Saliency = Callable[[Sequence[ChannelRun], np.random.Generator], np.ndarray]
"""Maps the runs of channels of a group to one score per channel, shape `(channels,)`."""


def l1(runs: Sequence[ChannelRun], rng: np.random.Generator) -> np.ndarray:
    """L1 norm of each output channel's kernel, averaged over the runs (Li et al., 2017)."""
    norms = [np.abs(_kernel(run).astype(np.float64)).sum(axis=0) for run in runs]
    return np.stack(norms).mean(axis=0)


def random(runs: Sequence[ChannelRun], rng: np.random.Generator) -> np.ndarray:
    """Uniform noise: the control that every criterion has to beat."""
    return rng.uniform(size=runs[0].channels)


SALIENCIES: dict[str, Saliency] = {"l1": l1, "random": random}


def _kernel(run: ChannelRun) -> np.ndarray:
    """Returns the kernel that makes the run, as `(everything else, channels)`."""
    assert run.unit is not None
    return output_kernel(run.unit)[:, run.start : run.stop]


def kept_channels(scores: np.ndarray, width: int, partitions: int = 1) -> tuple[int, ...]:
    """Returns the indices of the highest scores, ascending; the earlier wins a tie.

    Args:
        scores: One score per channel.
        width: Number of channels to keep, a multiple of `partitions`.
        partitions: Number of equal runs of channels that keep the same number each.
    """
    runs = np.argsort(-scores.reshape(partitions, -1), axis=1, kind="stable")
    starts = np.arange(partitions)[:, None] * runs.shape[1]
    kept = runs[:, : width // partitions] + starts
    return tuple(sorted(kept.ravel().tolist()))
