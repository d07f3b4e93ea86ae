from __future__ import annotations

import pytest

from keras_branch_prune.analysis.groups import ChannelGroup
from keras_branch_prune.planning.widths import WidthChoices, WidthLimits, round_width


def group(channels=40, conv_groups=1, name="g"):
    return ChannelGroup(name, channels, (), (), conv_groups=conv_groups)


@pytest.mark.parametrize(
    ("channels", "conv_groups", "round_to", "multiple"),
    [(40, 1, None, 1), (40, 1, 16, 16), (40, 4, 6, 12), (12, 1, 16, 1), (12, 4, 16, 4)],
)
def test_multiples(channels, conv_groups, round_to, multiple):
    assert WidthLimits(round_to).multiple(group(channels, conv_groups)) == multiple


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({"round_to": 16}, (16, 32, 40)),
        ({"round_to": 8}, (8, 16, 24, 32, 40)),
        ({"round_to": 16, "floors": {"g": 17}}, (32, 40)),
        ({"round_to": 16, "ceilings": {"g": 39}}, (16, 32)),
        ({"floors": {"g": 7}, "ceilings": {"g": 9}}, (7, 8, 9)),
        ({"round_to": 16, "unrounded": {"g"}, "floors": {"g": 38}}, (38, 39, 40)),
    ],
)
def test_choices(options, widths):
    (choice,) = WidthLimits(**options).choices([group()])
    assert (choice.name, choice.channels, choice.widths) == ("g", 40, widths)


def test_the_nearest_width_is_rounded():
    assert WidthLimits().nearest(group(), 0.51) == 20
    assert WidthLimits(16).nearest(group(), 0.51) == 16
    assert WidthLimits(16, unrounded={"g"}).nearest(group(), 0.51) == 20


def test_steps_between_choices():
    choice = WidthChoices("g", 40, (8, 16, 32, 40))
    assert [choice.at_most(width) for width in (0, 8, 15.9, 16, 99)] == [8, 8, 8, 16, 40]
    assert [choice.wider(width) for width in (3, 8, 40)] == [8, 16, None]
    assert [choice.narrower(width, 2) for width in (40, 16, 8)] == [16, 8, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floors": {"other": 3}}, r"`floors` must name selected groups. Received: \['other'\]"),
        ({"ceilings": {"a": 1, "b": 2}}, r"`ceilings` must name .* Received: \['a', 'b'\]"),
        ({"floors": {"g": 9}, "ceilings": {"g": 8}}, "group 'g', .* Received: 9 and 8"),
        ({"floors": {"g": 41}}, "group 'g', which has 40 channels .* Received: 41 and 40"),
        ({"round_to": 16, "floors": {"g": 20}, "ceilings": {"g": 31}}, "multiples of 16"),
    ],
)
def test_conflicts(options, message):
    with pytest.raises(ValueError, match=message):
        WidthLimits(**options).choices([group()])


@pytest.mark.parametrize(
    ("width", "channels", "round_to", "expected"),
    [
        (64 * 0.34375, 64, 1, 22),
        (0.2, 10, 1, 1),
        (2.5, 10, 1, 3),
        (22, 64, 16, 16),
        (44, 128, 16, 48),
        (88, 256, 16, 80),
        (3, 8, 16, 8),
        (5, 64, 16, 16),
    ],
)
def test_round_width(width, channels, round_to, expected):
    assert round_width(width, channels, round_to) == expected
