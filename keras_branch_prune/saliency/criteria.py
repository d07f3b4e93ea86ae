"""Criteria that score the channels of a group; those with the highest scores are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from keras_branch_prune.channels import ChannelRun
from keras_branch_prune.common import require_choice
from keras_branch_prune.rules import output_kernel
from keras_branch_prune.saliency.features import GroupFeatures
from keras_branch_prune.saliency.pivoting import pivot_channels

NEEDS = ("weights", "calibration", "loss")
"""What a criterion may need; "calibration" includes the weights, "loss" includes both."""


@dataclasses.dataclass(frozen=True, eq=False)
class GroupData:
    """What a criterion may look at.

    Args:
        channels: Number of channels of the group.
        runs: For every layer that produces the group, which of its output channels these are.
        gammas: Absolute scales of the BatchNormalization layers of the group, each of shape
            `(channels,)`.
        rng: For random choices.
        features: Sums over the features of calibration data; `None` without such data.
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
            # 392 outputs of a Dense layer that are reshaped to 7 × 7 × 8 become, for each of its
            # inputs, 49 rows of 8 channels.
            kernel = kernel.reshape(len(kernel) * run.positions, -1)[:, run.start : run.stop]
            kernels.append(kernel.astype(np.float64))
        return kernels

    def seen(self) -> GroupFeatures:
        """Returns `features`, which a criterion has that is registered as needing calibration."""
        assert self.features is not None
        return self.features


Saliency = Callable[[GroupData], np.ndarray]
"""Maps what is known about a group to one score per channel, shape `(channels,)`."""


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A row of the table of criteria.

    Args:
        score: Maps a `GroupData` to one score per channel.
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
    """Sum of a kernel's distances to all others, averaged over the producers (He et al., 2019).

    Channels near the geometric median, which the others can replace best, score lowest.
    """
    scores = []
    for kernel in group.kernels():
        # |a − b|² = |a|² + |b|² − 2·a·b, which rounding may take below 0.
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
    """Size of the loss' first-order change if the channel were zero (Molchanov et al., 2017)."""
    return group.seen().taylor


def interpolative(group: GroupData) -> np.ndarray:
    """Column-pivoted QR of the features (Chee et al., 2022), an interpolative decomposition.

    The channel of the largest norm comes first; what it explains linearly is taken out of all
    others; the largest of what is left comes next, and so on.
    """
    order, _ = pivot_channels(group.seen().products)
    return _scores_of_order(order)


def output_error(group: GroupData) -> np.ndarray:
    """Greedy forward selection by the error at the model's output.

    Like `interpolative`, but every step takes the channel that lowers the error at the output most,
    to first order, if all other channels are fitted by least squares from those taken (see
    `features.py`). ThiNet (Luo et al., 2017) does so with the error behind the next layer.
    """
    order, _ = pivot_channels(group.seen().products, group.seen().sensitivity)
    return _scores_of_order(order)


def _scores_of_order(order: np.ndarray) -> np.ndarray:
    """Returns scores that put the channels into this order."""
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
        name: The name by which `plan(saliency=…)` finds it.
        score: Maps a `GroupData` to one score per channel, shape `(channels,)`; the highest stay.
        needs: "weights"; "calibration", if it looks at `group.features`; or "loss", if it looks at
            `group.features.taylor`.

    Raises:
        TypeError: If `score` cannot be called.
        ValueError: If `needs` is none of these.
    """
    if not callable(score):
        raise TypeError(f"`score` must be a function. Received: {score!r}")
    require_choice("needs", needs, NEEDS)
    SALIENCIES[name] = Criterion(score, needs)


def channel_scores(name: str, group: GroupData) -> np.ndarray:
    """Returns the scores of a criterion, float64 of shape `(channels,)`.

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


def order_by_score(scores: np.ndarray, conv_groups: int = 1) -> np.ndarray:
    """Returns the channels, the most valuable first; of equal ones, the lower number first.

    Args:
        scores: One score per channel.
        conv_groups: Number of equal runs of channels, which take turns.
    """
    runs = np.argsort(-scores.reshape(conv_groups, -1), axis=1, kind="stable")
    return (runs + np.arange(conv_groups)[:, None] * runs.shape[1]).T.ravel()
