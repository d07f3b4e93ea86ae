"""What a model costs at any widths of its channel groups, fast enough to search for widths."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping

from keras_branch_prune.analysis import (
    Analysis,
    ChannelGroup,
    graph_costs,
    graph_parameters,
    narrowed_graph,
    spread,
    without_numbers,
)
from keras_branch_prune.common import DisjointSets
from keras_branch_prune.graph import Call, Graph

GroupWidths = Mapping[str, int]
"""Channel group name → number of channels that stay; a group that is missing keeps all."""


class CostModel:
    """The parameters, MACs or estimated latency of the compact model, by the widths of its groups.

    The cost is the sum over parts of the graph, a part being the calls of one layer (of several if
    they share weights). The cost of a part depends only on the few groups at its inputs and
    outputs, and is computed once for every combination of their widths.

    Example:
        >>> from keras_branch_prune.analysis import analyse
        >>> from keras_branch_prune.graph import canonical
        >>> from keras_branch_prune.planning.cost_model import CostModel
        >>> inputs = keras.Input((4,))
        >>> x = keras.layers.Dense(8, name="hidden")(inputs)
        >>> model = keras.Model(inputs, keras.layers.Dense(2)(x))
        >>> cost_model = CostModel(analyse(canonical(model)), "macs")
        >>> cost_model.whole, cost_model.cost({"hidden": 3})
        (48, 18)

    Args:
        analysis: The channel groups of a model.
        kind: `"params"`, `"macs"` (per sample), or the cost of one MAC (such as its ms) by the name
            of the layer; layers that are missing then cost nothing.
        constant: A cost that is added at any widths, in the unit of `kind`.

    Raises:
        ValueError: If `kind` is none of these or names unknown layers, or the MACs depend on an
            open dimension.
    """

    def __init__(self, analysis: Analysis, kind: str | Mapping[str, float], constant: float = 0):
        measure = _choose_measure(kind, analysis.graph)
        self.name = kind if isinstance(kind, str) else "latency"
        self._constant = constant
        self._parts: list[_Part] = []
        self._touching: dict[str, list[_Part]] = {g.name: [] for g in analysis.groups if g.prunable}
        for part in _make_parts(analysis, measure):
            # A part that costs nothing at full width costs nothing at any.
            if part.cost({}):
                self._parts.append(part)
                for group in part.groups:
                    self._touching[group.name].append(part)
        self.whole = self.cost({})

    def cost(self, widths: GroupWidths) -> float:
        """Returns what the compact model of these widths costs.

        Raises:
            ValueError: If `widths` names a group that cannot be pruned, or has an impossible width.
        """
        unknown = sorted(widths.keys() - self._touching.keys())
        if unknown:
            raise ValueError(
                f"`widths` must name channel groups that can be pruned. Received: {unknown}"
            )
        return sum(part.cost(widths) for part in self._parts) + self._constant

    def change(self, widths: GroupWidths, group: str, width: int) -> float:
        """Returns by how much the cost changes when one group gets another width.

        Args:
            widths: The widths before; not checked, for speed.
            group: Name of the group.
            width: Its width afterwards.
        """
        changed = {**widths, group: width}
        return sum(part.cost(changed) - part.cost(widths) for part in self._touching[group])


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """Calls whose cost is measured together, and the groups whose widths it depends on."""

    analysis: Analysis
    groups: tuple[ChannelGroup, ...]
    measure: Callable[[Graph], float]
    known: dict[tuple[int, ...], float] = dataclasses.field(default_factory=dict)

    def cost(self, widths: GroupWidths) -> float:
        """Returns what the calls cost."""
        key = tuple(widths.get(group.name, group.channels) for group in self.groups)
        if key not in self.known:
            # The cost depends on how many channels stay, not on which.
            kept = {g.name: spread(g, width) for g, width in zip(self.groups, key, strict=True)}
            self.known[key] = self.measure(narrowed_graph(self.analysis, kept))
        return self.known[key]


def _choose_measure(kind: str | Mapping[str, float], graph: Graph) -> Callable[[Graph], float]:
    """Returns the function that measures the cost of a part of the graph."""
    if kind == "params":
        return graph_parameters
    if kind == "macs":
        return lambda part: graph_costs(part).macs
    if not isinstance(kind, Mapping):
        raise ValueError(
            "`kind` must be 'params', 'macs' or a mapping of layer names to costs per MAC. "
            f"Received: {kind!r}"
        )
    unknown = sorted(kind.keys() - graph_costs(graph).layers.keys())
    if unknown:
        raise ValueError(f"`kind` must name layers that multiply. Received: {unknown}")
    return lambda part: sum(
        kind.get(name, 0.0) * macs for name, macs in graph_costs(part).layers.items()
    )


def _make_parts(analysis: Analysis, measure: Callable[[Graph], float]) -> list[_Part]:
    """Splits the graph into parts, so that the costs of the parts add up to those of the whole."""
    # Costs depend on shapes only, and every part is narrowed many times.
    graph = without_numbers(analysis.graph)
    # Apart, layers that share weights would count these weights twice.
    sets = DisjointSets()
    for call in graph.calls:
        sets.add(call.unit)
        for weight in map(id, call.unit.weights):
            sets.add(weight)
            sets.unite(call.unit, weight)
    calls: dict[object, list[Call]] = {}
    for call in graph.calls:
        calls.setdefault(sets.find(call.unit), []).append(call)
    prunable = {group.name: group for group in analysis.groups if group.prunable}
    parts = []
    for together in calls.values():
        part = dataclasses.replace(graph, calls=tuple(together))
        values = itertools.chain(*((*call.inputs, *call.outputs) for call in together))
        layouts = [analysis.layouts[value] for value in values if value in analysis.layouts]
        names = set().union(*(layout.groups() for layout in layouts))
        groups = tuple(prunable[name] for name in sorted(names & prunable.keys()))
        parts.append(_Part(dataclasses.replace(analysis, graph=part), groups, measure))
    return parts
