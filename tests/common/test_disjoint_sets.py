from __future__ import annotations

from keras_branch_prune.common.disjoint_sets import DisjointSets


def united(items, *pairs):
    sets = DisjointSets()
    for item in items:
        sets.add(item)
    for pair in pairs:
        sets.unite(*pair)
    return {item: sets.find(item) for item in items}


def test_the_item_added_first_represents_its_set():
    assert united("abcde") == {item: item for item in "abcde"}
    assert united("abcde", "ed", "cb") == dict(zip("abcde", "abbdd", strict=True))
    assert set(united("abcde", "ed", "cb", "ec", "ba").values()) == {"a"}


def test_long_chains_are_found():
    items = range(500)
    chain = united(items, *zip(items[1:], items, strict=False))
    assert set(chain.values()) == {0}


def test_adding_and_uniting_again_changes_nothing():
    sets = DisjointSets()
    for item in "aba":
        sets.add(item)
    for _ in range(2):
        sets.unite("a", "b")
    sets.add("b")
    assert sets.find("b") == "a"
