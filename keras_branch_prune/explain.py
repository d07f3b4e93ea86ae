"""Tells what can be pruned in a model, and why the rest cannot."""

from __future__ import annotations

import dataclasses

import keras

from keras_branch_prune.canonical import canonical
from keras_branch_prune.groups import ChannelGroup, analyse
from keras_branch_prune.tables import format_table


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What can be pruned in a model and what not, and why; `print` it.

    Args:
        model_name: Name of the model.
        groups: All channel groups, in graph order.
    """

    model_name: str
    groups: tuple[ChannelGroup, ...]

    def __str__(self) -> str:
        rows = [
            (
                group.name,
                str(group.channels),
                ", ".join(group.producers),
                ", ".join(group.consumers) or "-",
                "yes" if group.prunable else f"no: {group.reason}",
            )
            for group in self.groups
        ]
        prunable = sum(group.prunable for group in self.groups)
        table = format_table(("group", "channels", "producers", "exits to", "prunable"), rows)
        return f"'{self.model_name}': {prunable} of {len(rows)} channel groups prunable\n{table}"


def explain(model: keras.Model) -> Explanation:
    """Tells for every channel group of a model whether it can be pruned, and why not.

    Args:
        model: A built functional or Sequential model; it is not changed.

    Returns:
        A value with one `ChannelGroup` per group, which prints as a table.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model cannot be analysed at all (unbuilt, subclassed, quantized).
    """
    return Explanation(model.name, analyse(canonical(model)).groups)
