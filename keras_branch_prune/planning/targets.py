"""From a target (widths, parameters, MACs or latency) to the widths of channel groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_branch_prune.analysis import Analysis, ChannelGroup
from keras_branch_prune.common import (
    require_integer,
    require_number,
    require_positive,
    require_share,
)
from keras_branch_prune.planning.latency_search import share_of_milliseconds

Record = tuple[tuple[str, Any], ...]
"""Pairs `(argument, value)`."""


@dataclasses.dataclass(frozen=True)
class Latency:
    """A latency for `plan` to meet, measured on this machine's CPU with the exported model.

    Args:
        share: Share of the original's latency to keep, in (0, 1).
        milliseconds: Latency per sample, ms (the time of a call / `batch_size`); instead of
            `share`.
        batch_size: Samples per call, at least 1.
        threads: Number of threads on the CPU, at least 1; `None` leaves it to TensorFlow.

    Raises:
        ValueError: Unless exactly one of `share` and `milliseconds` is given, or if an argument is
            out of its range.

    Example:
        >>> keras_branch_prune.Latency(0.5, batch_size=8)
        Latency(share=0.5, milliseconds=None, batch_size=8, threads=None)
    """

    share: float | None = None
    milliseconds: float | None = None
    batch_size: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if (self.share is None) == (self.milliseconds is None):
            raise ValueError(
                "`Latency` takes either `share` or `milliseconds`. "
                f"Received: share={self.share}, milliseconds={self.milliseconds}"
            )
        if self.share is not None:
            require_share("share", self.share)
        if self.milliseconds is not None:
            require_positive("milliseconds", self.milliseconds)
        for name in ("batch_size", "threads"):
            value = getattr(self, name)
            if name == "batch_size" or value is not None:
                object.__setattr__(self, name, require_integer(name, value, at_least=1))

    def share_of(self, model: keras.Model) -> float:
        """Returns the latency as a share of a model's, which is measured for `milliseconds`."""
        if self.share is not None:
            return self.share
        assert self.milliseconds is not None
        return share_of_milliseconds(
            model, self.milliseconds, self.batch_size, threads=self.threads
        )


def one_target(**targets: Any) -> tuple[str, Any]:
    """Returns the name and the value of the one target that is not `None`, a latency as `Latency`.

    Raises:
        ValueError: If there is not exactly one, or its value is out of its range.
    """
    given = [name for name, value in targets.items() if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"Exactly one of {', '.join(f'`{name}`' for name in targets)} must be given. "
            f"Received: {', '.join(given) or 'none'}"
        )
    name, value = given[0], targets[given[0]]
    if isinstance(value, Latency) and name == "latency":
        return name, value
    if name != "width":
        require_share(name, value)
    elif not isinstance(value, Mapping):
        _check_ratio(name, value)
    return name, Latency(value) if name == "latency" else value


def _check_ratio(name: str, ratio: Any) -> None:
    require_number(name, ratio, lambda x: 0 < x <= 1, "a number in (0, 1]")


def check_ratios(
    width: Mapping[str, Any], analysis: Analysis, selected: Sequence[ChannelGroup]
) -> None:
    """Raises unless all are ratios of selected groups that can be pruned."""
    reasons = {group.name: group.reason for group in analysis.groups}
    names = {group.name for group in selected}
    for name, ratio in width.items():
        _check_ratio(f"width[{name!r}]", ratio)
        if name not in reasons:
            raise ValueError(f"`width` names no channel group. Received: {name!r}; see `explain`.")
        if reasons[name] is not None:
            raise ValueError(f"`width` names group {name!r}, which stays: {reasons[name]}")
        if name not in names:
            raise ValueError(
                f"`width` names group {name!r}, which `include`, `exclude`, `scope` or `residual` "
                "leaves out"
            )
