"""Criteria that say which channels of a group to keep: the higher the score, the more worth it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from keras_branch_prune.channels import ChannelRun
from keras_branch_prune.rules import output_kernel
from keras_branch_prune.saliency.features import GroupFeatures
from keras_branch_prune.saliency.pivoting import pivots

NEEDS = ("weights", "calibration", "loss")
"""What a criterion may need: each includes those before it."""


@dataclasses.dataclass(frozen=True, eq=False)
class GroupData:
    """What a criterion may look at.

    Args:
        channels: Number of channels of the group.
        runs: The channels as every producer makes them.
        gammas: Scales of the BatchNormalization layers of the group, each of shape `(channels,)`.
        rng: For random choices.
        features: What calibration data says, if there is any.
    """

    channels: int
    runs: Sequence[ChannelRun]
    gammas: Sequence[np.ndarray]
    rng: np.random.Generator
    features: GroupFeatures | None = None

    def kernels(self) -> list[np.ndarray]:
        """Returns the kernel of every producer as `(everything else, channels)`, float64."""
        kernels = []
        for run in self.runs:
            assert run.unit is not None
            kernel = output_kernel(run.unit)
            kernel = kernel.reshape(len(kernel) * run.positions, -1)[:, run.start : run.stop]
            kernels.append(kernel.astype(np.float64))
        return kernels

    def seen(self) -> GroupFeatures:
        """Returns the features of a criterion that needs calibration data."""
        assert self.features is not None
        return self.features


Saliency = Callable[[GroupData], np.ndarray]
"""Maps what is known about a group to one score per channel, shape `(channels,)`."""


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A criterion in the table.

    Args:
        score: The function.
        needs: What it needs, one of `NEEDS`.
    """

    score: Saliency
    needs: str = "weights"


def l1(group: GroupData) -> np.ndarray:
    """L1 norm of each output channel's kernel, averaged over the producers (Li et al., 2017)."""
    return np.stack([np.abs(kernel).sum(axis=0) for kernel in group.kernels()]).mean(axis=0)


def l2(group: GroupData) -> np.ndarray:
    """L2 norm of each output channel's kernel, averaged over the producers."""
    norms = [np.sqrt(np.square(kernel).sum(axis=0)) for kernel in group.kernels()]
    return np.stack(norms).mean(axis=0)


def batch_norm(group: GroupData) -> np.ndarray:
    """`|gamma|` of BatchNormalization, averaged over the group's layers (Liu et al., 2017).

    Raises:
        ValueError: If no BatchNormalization scales the group.
    """
    if not group.gammas:
        raise ValueError(
            '`saliency="batch_norm"` needs BatchNormalization with a scale in every group. '
            f"Received: a group without, produced by '{group.runs[0].source}'"
        )
    return np.abs(np.stack(group.gammas)).mean(axis=0)


def fpgm(group: GroupData) -> np.ndarray:
    """Distance of each kernel to all others: those near the geometric median go (He et al., 2019).

    Averaged over the producers.
    """
    scores = []
    for kernel in group.kernels():
        products = kernel.T @ kernel
        squares = np.diag(products)
        distances = squares[:, None] + squares[None] - 2 * products
        scores.append(np.sqrt(np.maximum(distances, 0.0)).sum(axis=0))
    return np.stack(scores).mean(axis=0)


def random(group: GroupData) -> np.ndarray:
    """Uniform noise: the control that every criterion has to beat."""
    return group.rng.uniform(size=group.channels)


def energy(group: GroupData) -> np.ndarray:
    """Mean square of each channel's features."""
    return np.diag(group.seen().products).copy()


def taylor(group: GroupData) -> np.ndarray:
    """First-order change of the loss if the channel were zero (Molchanov et al., 2017)."""
    return group.seen().taylor


def interpolative(group: GroupData) -> np.ndarray:
    """Column-pivoted QR of the features (Chee et al., 2022), an interpolative decomposition.

    The channel of the largest norm is kept; what it explains is taken out of all others; and so on.
    """
    order, _ = pivots(group.seen().products)
    return _ranks(order)


def output_error(group: GroupData) -> np.ndarray:
    """Greedy selection by what it does to the model's output.

    Like `interpolative`, but each time that channel is kept which lowers most how far the output
    moves, to first order, if the others are fitted from the kept ones (see `features.py`). Greedy
    forward selection with least squares; ThiNet (Luo et al., 2017) measures behind the next layer.
    """
    order, _ = pivots(group.seen().products, group.seen().sensitivity)
    return _ranks(order)


def _ranks(order: np.ndarray) -> np.ndarray:
    """Returns scores that fall in the order given."""
    scores = np.empty(len(order))
    scores[order] = np.arange(len(order), 0, -1)
    return scores


SALIENCIES: dict[str, Criterion] = {
    "l1": Criterion(l1),
    "l2": Criterion(l2),
    "batch_norm": Criterion(batch_norm),
    "fpgm": Criterion(fpgm),
    "random": Criterion(random),
    "energy": Criterion(energy, "calibration"),
    "interpolative": Criterion(interpolative, "calibration"),
    "output_error": Criterion(output_error, "calibration"),
    "taylor": Criterion(taylor, "loss"),
}


def register_saliency(name: str, score: Saliency, needs: str = "weights") -> None:
    """Registers a criterion of your own, or replaces a built-in one.

    Example:
        >>> def largest(group):
        ...     return np.max(np.abs(group.kernels()[0]), axis=0)
        >>> kbp.register_saliency("largest", largest)
        >>> plan = kbp.plan(model, width=0.5, saliency="largest")

    Args:
        name: What `plan` knows it by.
        score: Maps a `GroupData` to one score per channel, shape `(channels,)`; the highest stay.
        needs: "weights"; "calibration", if it looks at `group.features`; or "loss", if it looks at
            `group.features.taylor`.

    Raises:
        TypeError: If `score` cannot be called.
        ValueError: If `needs` is none of these.
    """
    if not callable(score):
        raise TypeError(f"`score` must be a function. Received: {score!r}")
    if needs not in NEEDS:
        raise ValueError(f"`needs` must be one of {NEEDS}. Received: {needs!r}")
    SALIENCIES[name] = Criterion(score, needs)


def channel_scores(name: str, group: GroupData) -> np.ndarray:
    """Returns the scores of a criterion, checked.

    Raises:
        ValueError: If they have another shape, or are not finite.
    """
    scores = np.asarray(SALIENCIES[name].score(group), dtype=np.float64)
    if scores.shape != (group.channels,) or not np.isfinite(scores).all():
        raise ValueError(
            f"The criterion '{name}' must return one finite score per channel, of shape "
            f"{(group.channels,)}. Received: {scores!r}"
        )
    return scores


def keeping_order(scores: np.ndarray, conv_groups: int = 1) -> np.ndarray:
    """Returns the channels in the order in which they are kept; the earlier wins a tie.

    Args:
        scores: One score per channel.
        conv_groups: Number of equal runs of channels, which take turns.
    """
    runs = np.argsort(-scores.reshape(conv_groups, -1), axis=1, kind="stable")
    return (runs + np.arange(conv_groups)[:, None] * runs.shape[1]).T.ravel()
