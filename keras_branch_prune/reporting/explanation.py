"""Tells what can be pruned in a model, how far, and why the rest cannot."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from typing import Any

import keras

from keras_branch_prune.analysis import (
    ChannelGroup,
    Costs,
    analyse,
    graph_costs,
    graph_parameters,
    narrowed_graph,
    smallest,
)
from keras_branch_prune.common import format_table
from keras_branch_prune.graph import Graph, canonical

_WIDTH = 100
_NAME_WIDTH = 44
_OTHER_COLUMNS = 24


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What can be pruned in a model, how far, and why the rest cannot; `print` it.

    At the floor every prunable group has its smallest width: no plan makes the model smaller.

    Args:
        model_name: Name of the model.
        groups: All channel groups, in graph order.
        parameters: Number of weights.
        floor_parameters: Number of weights at the floor.
        macs: Multiply-accumulates per sample, or `None` if they depend on an open dimension.
        floor_macs: Multiply-accumulates per sample at the floor, or `None` likewise.
        uncounted: Names of layers that may multiply and are not counted in the MACs.
    """

    model_name: str
    groups: tuple[ChannelGroup, ...]
    parameters: int
    floor_parameters: int
    macs: int | None
    floor_macs: int | None
    uncounted: tuple[str, ...] = ()

    def __str__(self) -> str:
        prunable = sum(group.prunable for group in self.groups)
        title = f"'{self.model_name}': {prunable} of {len(self.groups)} channel groups prunable"
        return "\n".join([title, *self._cost_lines(), "", self._table(), *self._reason_lines()])

    def records(self) -> list[dict[str, Any]]:
        """Returns one flat dict per group, e.g. for a `pandas.DataFrame`."""
        return [
            {
                "group": group.name,
                "channels": group.channels,
                "floor": group.floor,
                "prunable": group.prunable,
                "reason": group.reason,
                "producers": ", ".join(group.parts or group.producers),
                "consumers": ", ".join(group.consumers),
                "conv_groups": group.conv_groups,
                "residual": group.residual,
            }
            for group in self.groups
        ]

    def to_json(self) -> str:
        """Returns everything as JSON text: the totals and, as `groups`, the records."""
        totals = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "groups"
        }
        return json.dumps({**totals, "groups": self.records()}, indent=1)

    def _cost_lines(self) -> list[str]:
        lines = [f"parameters: {_format_costs(self.parameters, self.floor_parameters)}"]
        if self.macs is None or self.floor_macs is None:
            lines.append("MACs: unknown, as the model leaves dimensions of its inputs open")
        else:
            lines.append(f"MACs per sample: {_format_costs(self.macs, self.floor_macs)}")
            if self.uncounted:
                lines.append(f"not counted in the MACs: {_shorten(self.uncounted, _WIDTH - 25)}")
        return lines

    def _table(self) -> str:
        longest = max((len(group.name) for group in self.groups), default=0)
        # Producers and consumers share what the other columns leave of a line.
        width = (_WIDTH - _OTHER_COLUMNS - min(longest, _NAME_WIDTH)) // 2
        rows = [
            (
                _clip(group.name, _NAME_WIDTH),
                str(group.channels),
                "yes" if group.prunable else "no",
                _shorten(group.parts or group.producers, width),
                _shorten(group.consumers, width) or "-",
            )
            for group in self.groups
        ]
        return format_table(("group", "channels", "prunable", "producers", "exits to"), rows)

    def _reason_lines(self) -> list[str]:
        # By reason, as most models have many groups that stay for the same one.
        names: dict[str, list[str]] = {}
        for group in self.groups:
            if group.reason is not None:
                names.setdefault(group.reason, []).append(group.name)
        lines = ["", "why groups stay"] if names else []
        for reason, stay in names.items():
            text = f"{_shorten(stay, _NAME_WIDTH)}: {reason}"
            lines.extend(textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    "))
        return lines


def explain(model: keras.Model) -> Explanation:
    """Tells for every channel group of a model whether it can be pruned, and why not.

    Example:
        >>> explanation = keras_branch_prune.explain(model)
        >>> explanation.floor_parameters < explanation.parameters
        True

    Args:
        model: A built functional or Sequential model; it is not changed.

    Returns:
        A value with one `ChannelGroup` per group and the smallest parameters and MACs that pruning
        can reach, which prints as a table.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model cannot be analysed at all (unbuilt, subclassed, quantized).
    """
    graph = canonical(model)
    analysis = analyse(graph)
    floor = narrowed_graph(analysis, smallest(analysis.groups))
    costs, floor_costs = _count_costs(graph), _count_costs(floor)
    return Explanation(
        model_name=model.name,
        groups=analysis.groups,
        parameters=graph_parameters(graph),
        floor_parameters=graph_parameters(floor),
        macs=costs.macs if costs else None,
        floor_macs=floor_costs.macs if floor_costs else None,
        uncounted=costs.uncounted if costs else (),
    )


def _count_costs(graph: Graph) -> Costs | None:
    # Inputs with open dimensions: the rest can be explained without MACs.
    try:
        return graph_costs(graph)
    except ValueError:
        return None


def _format_costs(whole: int, floor: int) -> str:
    share = f" ({floor / whole:.1%})" if whole else ""
    return f"{whole:,}, at least {floor:,}{share}"


def _shorten(names: Sequence[str], width: int) -> str:
    """Returns the names in at most `width` characters, such as "conv1, conv2, … (17)"."""
    text = ", ".join(names)
    if len(text) <= width:
        return text
    if len(names) == 1:
        return _clip(text, width)
    for count in range(len(names) - 1, 0, -1):
        text = f"{', '.join(names[:count])}, … ({len(names)})"
        if len(text) <= width:
            return text
    number = f" ({len(names)})"
    return _clip(names[0], width - len(number)) + number


def _clip(name: str, width: int) -> str:
    """Returns the name, with its middle left out if it is longer than `width`."""
    # The ends of names tell layers apart: "stage3_block2_conv1".
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"
