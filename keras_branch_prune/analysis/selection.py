"""Selects channel groups by name, glob, predicate or nested model."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keras_branch_prune.analysis.groups import ChannelGroup

Selector = str | Callable[[ChannelGroup], bool]
"""The name of a group or of a layer in it, a glob such as `encoder__*`, or a predicate."""

Selectors = Selector | Sequence[Selector] | None
"""One selector, or several of which one must match; `None` where nothing is said."""

_Predicate = Callable[[ChannelGroup], bool]


def in_scope(
    groups: Iterable[ChannelGroup],
    *,
    include: Selectors = None,
    exclude: Selectors = None,
    scope: str | Sequence[str] | None = None,
    residual: bool = True,
) -> tuple[ChannelGroup, ...]:
    """Returns the prunable groups that are selected.

    Args:
        groups: All groups of a model.
        include: What to select; `None` selects all.
        exclude: What to leave out.
        scope: Names of nested models: only groups with a producer in one of them are selected.
        residual: Whether to select residual streams too: groups of several producers that are
            summed.

    Raises:
        TypeError: If a selector is neither text nor callable.
        ValueError: If a name or glob matches no group, or no selected group is prunable.
    """
    groups = tuple(groups)
    included = _predicates("include", include, groups, _matches_name)
    excluded = _predicates("exclude", exclude, groups, _matches_name)
    scoped = _predicates("scope", scope, groups, _is_inlined_from)

    def is_selected(group: ChannelGroup) -> bool:
        return (
            (include is None or any(matches(group) for matches in included))
            and (scope is None or any(matches(group) for matches in scoped))
            and not any(matches(group) for matches in excluded)
            and (residual or not group.residual)
        )

    selected = [group for group in groups if is_selected(group)]
    prunable = tuple(group for group in selected if group.prunable)
    # A model in which nothing can be pruned is no fault of the selectors.
    if not prunable and any(group.prunable for group in groups):
        stay = "".join(f"\n  {group.name}: {group.reason}" for group in selected)
        raise ValueError(
            "`include`, `exclude`, `scope` and `residual` must leave a channel group that can be "
            f"pruned. Received: a selection of {len(selected)} groups that stay{stay}"
        )
    return prunable


def selection_record(**options: Any) -> tuple[tuple[str, Any], ...]:
    """Returns selectors as `(argument, text)` pairs, predicates by name: what a plan records."""
    return tuple(
        (argument, _text(selector))
        for argument, selectors in options.items()
        for selector in _list(selectors)
    )


def _text(selector: Any) -> str:
    return selector if isinstance(selector, str) else getattr(selector, "__name__", "predicate")


def _list(selectors: Any) -> list[Any]:
    if selectors is None:
        return []
    return [selectors] if isinstance(selectors, str) or callable(selectors) else list(selectors)


def _predicates(
    argument: str,
    selectors: Any,
    groups: Sequence[ChannelGroup],
    matches: Callable[[str, ChannelGroup], bool],
) -> list[_Predicate]:
    """Returns one predicate per selector; checks that every text matches something."""
    found: list[_Predicate] = []
    for selector in _list(selectors):
        if isinstance(selector, str):
            if not any(matches(selector, group) for group in groups):
                raise ValueError(
                    f"`{argument}` matches no channel group. Received: {selector!r}; see `explain`."
                )
            found.append(functools.partial(matches, selector))
        elif callable(selector) and argument != "scope":
            found.append(selector)
        else:
            kinds = "names" if argument == "scope" else "names, globs or predicates"
            raise TypeError(f"`{argument}` must consist of {kinds}. Received: {selector!r}")
    return found


def _matches_name(pattern: str, group: ChannelGroup) -> bool:
    names = (group.name, *group.parts, *group.producers)
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for name in names)


def _is_inlined_from(model: str, group: ChannelGroup) -> bool:
    """Whether a producer comes from the nested model of that name, at any depth."""
    # The layer `conv` of a nested model `block` is named `block__conv` in the graph.
    return any(f"__{model}__" in f"__{name}" for name in group.producers)
