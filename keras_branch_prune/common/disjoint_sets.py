"""Disjoint sets of anything that can be hashed."""

from __future__ import annotations

from typing import Any


class DisjointSets:
    """Disjoint sets; the item added first represents its set."""

    def __init__(self) -> None:
        self._parent: dict[Any, Any] = {}
        self._order: dict[Any, int] = {}

    def add(self, item: Any) -> None:
        """Adds `item` as a set of its own, if it is new."""
        if item not in self._parent:
            self._parent[item] = item
            self._order[item] = len(self._order)

    def find(self, item: Any) -> Any:
        """Returns the representative of the item's set."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def unite(self, a: Any, b: Any) -> None:
        """Joins the sets of two items."""
        first, second = sorted((self.find(a), self.find(b)), key=self._order.__getitem__)
        self._parent[second] = first
