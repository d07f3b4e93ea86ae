"""What rules tell the tracker, on the worked example in `channels/layouts.py`."""

from __future__ import annotations

import pytest
from keras import layers

from keras_branch_prune.channels.cuts import side_by_side
from keras_branch_prune.channels.layouts import Block, Layout, Segment
from keras_branch_prune.channels.tracker import ChannelTracker
from keras_branch_prune.graph.graph import Unit, Value

STEM, LEFT, RIGHT = (Unit(name, layers.Conv2D, {}) for name in ("stem", "left", "right"))


def tracker_of(cuts=None, positions=None, **options):
    return ChannelTracker(cuts or {}, positions or {}, **options)


def trace_block(tracker):
    """Tells of the sum of `stem` (6 channels) and the concatenated `left` (4) and `right` (2)."""
    stem = tracker.produce(STEM, 3, 6)
    joined = side_by_side(3, [tracker.produce(LEFT, 3, 4), tracker.produce(RIGHT, 3, 2)])
    tracker.tie([stem, joined], "'add' (Add)")
    return stem, joined


def tied(tracker):
    """The sets of runs that have one width."""
    sets = {}
    for label in tracker.runs:
        sets.setdefault(tracker.sets.find(label), []).append(label)
    return sorted(sets.values())


def test_a_tie_of_other_ends_asks_for_cuts():
    tracker = tracker_of()
    stem, joined = trace_block(tracker)
    assert stem == Layout(3, (Block(1, (Segment("stem", 6),)),))
    assert joined == Layout(3, (Block(1, (Segment("left", 4), Segment("right", 2))),))
    assert tied(tracker) == [["left"], ["right"], ["stem"]]
    assert tracker.new_cuts() == {"stem": {4}}
    assert tracker.reasons == []


def test_the_next_pass_makes_the_cuts_and_ties():
    tracker = tracker_of({"stem": {4}})
    stem, _ = trace_block(tracker)
    assert stem == Layout(3, (Block(1, (Segment("stem[0:4]", 4), Segment("stem[4:6]", 2))),))
    assert tied(tracker) == [["stem[0:4]", "left"], ["stem[4:6]", "right"]]
    assert tracker.new_cuts() == {}
    run = tracker.runs["stem[4:6]"]
    assert (run.source, run.unit, run.start, run.stop, run.channels) == ("stem", STEM, 4, 6, 2)


def test_the_last_pass_keeps_whole_what_is_not_cut():
    tracker = tracker_of(refine=False)
    trace_block(tracker)
    reason = "'add' (Add) joins groups that are concatenated differently"
    assert sorted(tracker.reasons) == [(name, reason) for name in ("left", "right", "stem")]
    assert tracker.new_cuts() == {}


def test_what_is_tied_is_cut_together():
    tracker = tracker_of({"stem": {2}})
    other = Unit("other", layers.Conv2D, {})
    _, part = tracker.produce(STEM, 3, 6).blocks[0].segments
    tracker.tie([Layout.of_group(3, part.group, 4), tracker.produce(other, 3, 4)], "'add' (Add)")
    tracker.cut(Layout.of_group(3, "other", 4), 0, 3, "'slice' (GetItem)")
    # Channel 3 of `other` is channel 5 of `stem`, whose second run begins at 2.
    assert tracker.new_cuts() == {"other": {3}, "stem": {5}}


def test_a_tie_with_unknown_channels_keeps_whole():
    tracker = tracker_of()
    tracker.tie([tracker.produce(STEM, 3, 6), None], "'add' (Add)")
    assert tracker.reasons == [("stem", "'add' (Add) joins it with channels that are fixed")]


def test_channels_that_repeat_differently_are_kept_whole():
    tracker = tracker_of()
    stem, left = tracker.produce(STEM, 3, 6), tracker.produce(LEFT, 3, 3)
    tracker.tie([stem, left.repeat(2)], "'add' (Add)")
    assert {name for name, _ in tracker.reasons} == {"stem", "left"}


def test_a_run_is_cut_out_one_pass_after_it_was_asked_for():
    first = tracker_of()
    stand_in = first.cut(first.produce(STEM, 3, 6), 1, 4, "'slice' (GetItem)")
    assert stand_in == Layout.of_group(3, "part:0", 3)
    assert first.new_cuts() == {"stem": {1, 4}}
    second = tracker_of(first.new_cuts())
    stem = second.produce(STEM, 3, 6)
    assert second.cut(stem, 1, 4, "'slice' (GetItem)") == Layout.of_group(3, "stem[1:4]", 3)
    assert second.cut(stem, 0, 4, "'slice' (GetItem)").width({"stem[1:4]": [0]}) == 2


def test_positions_are_asked_for_and_made_like_cuts():
    dense = Unit("dense", layers.Dense, {})
    first = tracker_of()
    stand_in = first.unfold(first.produce(dense, 1, 12), 3, "'reshape' (Reshape)")
    assert stand_in == Layout.of_group(1, "part:0", 4)
    assert first.new_positions() == {"dense": 3}
    second = tracker_of(positions=first.new_positions())
    layout = second.produce(dense, 1, 12)
    assert layout == Layout(1, (Block(3, (Segment("dense", 4),)),))
    unfolded = second.unfold(layout, 3, "'reshape' (Reshape)")
    assert unfolded == Layout.of_group(1, "dense", 4)
    assert second.new_positions() == {}
    assert second.unfold(layout, 2, "'other' (Reshape)") is None
    reason = "'other' (Reshape) parts channels into positions that are not known as such"
    assert second.reasons == [("dense", reason)]


def test_a_cut_source_keeps_its_one_position():
    tracker = tracker_of({"stem": {4}})
    left = tracker.produce(LEFT, 3, 4)
    tracker.tie([tracker.produce(STEM, 3, 6).part(0, 4), left], "'add' (Add)")
    tracker.unfold(left, 2, "'reshape' (Reshape)")
    assert tracker.new_positions() == {"left": 1, "stem": 1}


def test_a_layer_called_twice_ties_what_it_reads_and_produces_the_same():
    tracker = tracker_of()
    stem, left = tracker.produce(STEM, 3, 4), tracker.produce(LEFT, 3, 4)
    for layout in (stem, left):
        tracker.tie_calls(RIGHT, "input", layout)
    assert tied(tracker) == [["stem", "left"]]
    assert tracker.produce(RIGHT, 3, 2) == tracker.produce(RIGHT, 3, 2)


def test_constant_channels_are_kept_whole_and_must_be_known():
    tracker = tracker_of()
    layout = tracker.constant_source(3, 4)
    assert [segment.channels for segment in layout.segments()] == [4]
    (reason,) = tracker.reasons
    assert reason == (*layout.groups(), "is joined with channels that are fixed")
    with pytest.raises(ValueError, match="must be static to be followed"):
        tracker.constant_source(3, None)


def test_a_single_channel_is_kept():
    tracker = tracker_of()
    tracker.produce(STEM, 3, 1)
    assert tracker.reasons == [("stem", "is a single channel")]


def test_runs_that_must_not_be_mixed():
    tracker = tracker_of({"right": {1}})
    tracker.partition(tracker.produce(STEM, 3, 6), 3)
    tracker.partition(tracker.produce(RIGHT, 3, 4), 2)
    assert tracker.conv_groups == [("stem", 3)]
    reason = "is split into 2 groups, but joined with other channels"
    assert ("right[1:4]", reason) in tracker.reasons


def test_consumers_are_noted_with_their_kernel():
    tracker, value = tracker_of(), Value((None, 2, 2, 6), "float32")
    tracker.consume(value, STEM, "input")
    tracker.consume(value, LEFT, "query", 2)
    assert tracker.consumers == [(value, STEM, "input", 1), (value, LEFT, "query", 2)]
