"""The layouts of the worked example in `channels/layouts.py`, and others."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from helpers.models import randomized
from keras import layers

from keras_branch_prune.analysis.groups import analyse
from keras_branch_prune.analysis.narrowing import narrowed_graph
from keras_branch_prune.channels.cuts import side_by_side
from keras_branch_prune.channels.layouts import Block, Layout, Segment
from keras_branch_prune.graph.building import build_model
from keras_branch_prune.graph.canonical import canonical
from keras_branch_prune.graph.graph import Deferred

FOUR, TWO = Segment("stem[0:4]", 4), Segment("stem[4:6]", 2)
SUMMED = Layout(3, (Block(1, (FOUR, TWO)),))
FLAT = Layout(1, (Block(4, (FOUR, TWO)),))
"""Images of 2 × 2 positions, flattened."""
HEADS = Layout(2, (Block(1, (Segment("heads", 2, inner=Segment("value", 3)),)),))
"""Two heads of attention with 3 channels each."""
KEPT = {"stem[0:4]": [0, 3], "stem[4:6]": [1]}

EXPAND = [
    [1, 0, 0, 0, 0, 0],
    [0, 0, 0, 1, 0, 0],
    [0, 0, 0, 0, 0, 1],
]


def test_the_worked_example():
    keras.utils.clear_session()
    image = keras.Input((2, 2, 3))
    stem = layers.Conv2D(6, 1, name="stem")(image)
    left = layers.Conv2D(4, 1, name="left")(stem)
    right = layers.Conv2D(2, 1, name="right")(stem)
    joined = layers.Concatenate()([left, right])
    flat = layers.Flatten()(layers.Add()([stem, joined]))
    model = randomized(keras.Model(image, layers.Dense(5, name="head")(flat)))

    analysis = analyse(canonical(model))
    groups = {group.name: (group.channels, group.parts) for group in analysis.groups}
    assert groups == {
        "stem[0:4]": (4, ("stem[0:4]", "left")),
        "stem[4:6]": (2, ("stem[4:6]", "right")),
        "head": (5, ()),
    }
    layouts = {call.unit.name: analysis.layouts[call.outputs[0]] for call in analysis.graph.calls}
    assert layouts["stem"] == layouts["concatenate"] == layouts["add"] == SUMMED
    assert layouts["flatten"] == FLAT

    compact = build_model(narrowed_graph(analysis, KEPT))
    kernels = [{x.name: x.kernel.numpy() for x in m.layers if x.weights} for m in (model, compact)]
    assert {name: kernel.shape[-2:] for name, kernel in kernels[1].items()} == {
        "stem": (3, 3),
        "left": (3, 2),
        "right": (3, 1),
        "head": (12, 5),
    }
    stay = [0, 3, 5, 6, 9, 11, 12, 15, 17, 18, 21, 23]
    assert np.array_equal(kernels[1]["head"], kernels[0]["head"][stay])


def matrices(found):
    """The blocks of a map with lists instead of deferred arrays."""
    return [(positions, matrix.numpy().tolist()) for positions, matrix in found.blocks]


def test_the_expand_map_puts_channels_to_their_places_and_the_reduce_map_takes_them():
    expand, reduce = SUMMED.expand_map(KEPT), SUMMED.reduce_map(KEPT)
    assert (expand.shape, reduce.shape) == ((3, 6), (6, 3))
    assert matrices(expand) == [(1, EXPAND)]
    assert matrices(reduce) == [
        (
            1,
            [
                [1, 0, 0],
                [0, 0, 0],
                [0, 0, 0],
                [0, 1, 0],
                [0, 0, 0],
                [0, 0, 1],
            ],
        )
    ]
    assert np.array_equal(expand.dense() @ reduce.dense(), np.eye(3))


def test_the_same_matrix_stands_at_every_position():
    assert FLAT.expand_map(KEPT).shape == (12, 24)
    assert matrices(FLAT.expand_map(KEPT)) == [(4, EXPAND)]


def test_every_group_of_a_convolution_has_a_matrix_of_its_own():
    layout = Layout.of_group(3, "conv", 6)
    kept = {"conv": [1, 2, 3, 5]}
    assert matrices(layout.expand_map(kept, conv_groups=2)) == [
        (1, [[0, 1, 0], [0, 0, 1]]),
        (1, [[1, 0, 0], [0, 0, 1]]),
    ]
    assert matrices(layout.reduce_map(kept, conv_groups=2)) == [
        (1, [[0, 0], [1, 0], [0, 1]]),
        (1, [[1, 0], [0, 0], [0, 1]]),
    ]


def test_no_matrix_is_made_before_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(np, "zeros", None)
    maps = [layout.reduce_map(KEPT) for layout in (SUMMED, FLAT)]
    assert [found.shape for found in maps] == [(6, 3), (24, 12)]
    assert all(isinstance(matrix, Deferred) for found in maps for _, matrix in found.blocks)


@pytest.mark.parametrize(
    ("layout", "kept", "indices"),
    [
        (SUMMED, KEPT, [0, 3, 5]),
        (SUMMED, {"stem[4:6]": [0]}, [0, 1, 2, 3, 4]),
        (SUMMED, {}, [0, 1, 2, 3, 4, 5]),
        (FLAT, KEPT, [0, 3, 5, 6, 9, 11, 12, 15, 17, 18, 21, 23]),
        (side_by_side(1, [FLAT, Layout.of_group(1, "d", 3)]), {"d": [2]}, [*range(24), 26]),
        (SUMMED.repeat(2), KEPT, [0, 1, 6, 7, 10, 11]),
        (HEADS, {"heads": [1]}, [3, 4, 5]),
        (HEADS, {"value": [0, 2]}, [0, 2, 3, 5]),
        (HEADS, {"heads": [1], "value": [0, 2]}, [3, 5]),
    ],
)
def test_kept_indices(layout, kept, indices):
    assert layout.kept_indices(kept).tolist() == indices
    assert layout.width(kept) == len(indices)
    assert layout.is_narrowed(kept) == bool(kept)


def test_indices_are_counted_within_blocks_and_segments():
    assert TWO.kept_indices(KEPT).tolist() == [1]
    assert FLAT.blocks[0].kept_indices(KEPT).tolist() == [0, 3, 5]


def test_neighbours_of_one_position_become_one_block():
    left, right = Layout.of_group(3, "left", 4), Layout.of_group(3, "right", 2)
    joined = side_by_side(3, [left, right])
    assert joined == Layout(3, (Block(1, (Segment("left", 4), Segment("right", 2))),))
    assert side_by_side(1, [FLAT, FLAT]).blocks == FLAT.blocks * 2


def test_layouts_of_equal_structure_can_be_tied():
    joined = Layout(3, (Block(1, (Segment("left", 4), Segment("right", 2))),))
    assert SUMMED.structure() == joined.structure() == ((1, (4, 1), (2, 1)),)
    assert SUMMED.structure() != Layout.of_group(3, "stem", 6).structure()
    assert FLAT.structure() == ((4, (4, 1), (2, 1)),)
    assert HEADS.structure() == ((1, (2, 1, 3, 1)),)
    names = {"left": "stem[0:4]", "right": "stem[4:6]"}
    assert joined.relabel(names) == SUMMED


def test_part_is_the_segments_between_two_ends():
    assert SUMMED.part(4, 6) == Layout(3, (Block(1, (TWO,)),))
    assert SUMMED.part(0, 6) == SUMMED


def test_a_single_segment_is_alone_at_one_position():
    alone = Layout.of_group(3, "stem", 6)
    assert alone.single_segment() == Segment("stem", 6)
    flat = dataclasses.replace(alone, blocks=(Block(4, alone.blocks[0].segments),))
    assert not any(x.single_segment() for x in (SUMMED, HEADS, alone.repeat(2), flat))
