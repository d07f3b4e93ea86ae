"""Disjoint sets (union–find) of anything that can be hashed."""

from __future__ import annotations

from typing import Any


class DisjointSets:
    """Disjoint sets; the item of a set that was added first represents it.

    Example:
        >>> from keras_branch_prune.common import DisjointSets
        >>> sets = DisjointSets()
        >>> for item in "abc":
        ...     sets.add(item)
        >>> sets.unite("c", "b")
        >>> sets.find("c")
        'b'
    """

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
        # Path halving: every second item on the way is hung onto its grandparent.
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def unite(self, a: Any, b: Any) -> None:
        """Joins the sets of two items."""
        # Not by size, as is usual: callers rely on the first item to represent the set.
        first, second = sorted((self.find(a), self.find(b)), key=self._order.__getitem__)
        self._parent[second] = first
