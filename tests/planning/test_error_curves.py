from __future__ import annotations

import numpy as np
import pytest

from keras_branch_prune.planning.error_curves import error_curves, lower_hull
from keras_branch_prune.planning.widths import WidthChoices


def chords(x, y):
    """The lower hull by its definition: the lowest of all chords above each point."""

    def lowest(index):
        pairs = [(a, b) for a in range(index + 1) for b in range(index, len(x))]
        return min(np.interp(x[index], x[[a, b]], y[[a, b]]) if a < b else y[a] for a, b in pairs)

    return [lowest(index) for index in range(len(x))]


@pytest.mark.parametrize("seed", range(20))
def test_lower_hull_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.integers(1, 4, size=rng.integers(1, 12)))
    y = rng.integers(0, 9, size=len(x)).astype(float)
    assert lower_hull(x, y) == pytest.approx(chords(x, y))


def test_a_curve_has_the_hull_at_the_choices():
    choice = WidthChoices("g", 6, (2, 4, 6))
    curves = error_curves([choice], {"g": np.array([9.0, 9, 5, 5, 4, 4, 0])})
    assert curves == {"g": {2: 5.0, 4: 2.5, 6: 0.0}}


@pytest.mark.parametrize(
    "curve",
    [[2, 1], [2, 1, 0, 0, 0], [[3, 2, 1, 0]], [3, 1, 2, 0], [2, 1, 0, -1], [np.inf, 1, 1, 0]],
)
def test_impossible_errors(curve):
    choice = WidthChoices("g", 3, (1, 2, 3))
    with pytest.raises(ValueError, match=r"`errors\['g'\]` must be 4 .* Received"):
        error_curves([choice], {"g": np.array(curve)})


def test_missing_errors():
    choice = WidthChoices("g", 3, (1, 2, 3))
    with pytest.raises(ValueError, match="`errors` must be given for global allocation"):
        error_curves([choice], None)
    with pytest.raises(ValueError, match=r"an entry for group 'g'. Received: \['h'\]"):
        error_curves([choice], {"h": np.zeros(4)})
