from __future__ import annotations

import json

import keras
import pytest
from helpers.models import BUILDERS, build
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.analysis.costs import model_costs


def at_the_floor(model: keras.Model) -> keras.Model:
    """The model with every group as narrow as it can be, really built."""
    return kbp.select(model, kbp.plan(model, width=1e-9))


@pytest.mark.parametrize("name", BUILDERS)
def test_the_floor_is_what_the_narrowest_model_costs(name):
    model = build(name)
    explanation = kbp.explain(model)
    whole, floor = model_costs(model), model_costs(at_the_floor(model))
    assert (explanation.parameters, explanation.macs) == (whole.parameters, whole.macs)
    assert explanation.floor_parameters == floor.parameters < whole.parameters
    assert explanation.floor_macs == floor.macs < whole.macs


def test_the_floor_of_a_group_is_its_conv_groups():
    groups = {group.name: group for group in kbp.explain(build("grouped")).groups}
    assert groups["grouped"].conv_groups == groups["grouped"].floor > 1
    assert groups["head"].floor == groups["head"].channels == 2


def test_the_floor_of_grouped_convolutions():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(12, 1, name="widen")(inputs)
    x = layers.Conv2D(8, 3, groups=4, padding="same", name="grouped")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    explanation = kbp.explain(model)
    assert [group.floor for group in explanation.groups] == [4, 4, 2]
    assert explanation.floor_parameters == (3 * 4 + 4) + (9 * 4 + 4) + (4 * 2 + 2)
    assert explanation.floor_macs == 16 * (3 * 4 + 9 * 4) + 4 * 2


def test_the_floor_takes_no_memory_for_large_kernels():
    inputs = keras.Input((4,))
    x = layers.Dense(3000)(layers.Dense(3000)(inputs))
    explanation = kbp.explain(keras.Model(inputs, layers.Dense(2)(x)))
    assert explanation.floor_parameters == (4 + 1) + (1 + 1) + (2 + 2)
    assert explanation.floor_macs == 4 + 1 + 2


def test_macs_are_unknown_where_inputs_are_open():
    inputs = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    explanation = kbp.explain(keras.Model(inputs, layers.Dense(2)(x)))
    assert explanation.macs is explanation.floor_macs is None
    assert explanation.floor_parameters == (27 + 1) + (2 + 2)
    assert "MACs: unknown, as the model leaves dimensions of its inputs open" in str(explanation)
    assert json.loads(explanation.to_json())["macs"] is None


def test_what_is_not_counted_is_named():
    explanation = kbp.explain(build("barriers"))
    assert explanation.uncounted == ("recurrent",)
    assert "not counted in the MACs: recurrent" in str(explanation)


def test_it_prints_every_group_and_why_it_stays():
    text = str(kbp.explain(build("gate")))
    assert "2 of 4 channel groups prunable" in text
    assert "  mask: is a single channel" in text
    assert "parameters: 327, at least 38 (11.6%)" in text
    assert "MACs per sample: 14,416, at least 1,796 (12.5%)" in text
    (row,) = (line.split() for line in text.splitlines() if line.startswith("features "))
    assert row[:7] == ["features", "8", "yes", "features,", "excite", "squeeze,", "mask,"]


def test_it_fits_a_terminal():
    inputs = keras.Input((3,))
    name = "a_block_with_a_rather_long_name_stage_{}_convolution"
    x = layers.Dense(4, name=name.format(0))(inputs)
    for index in range(1, 12):
        x = layers.Add()([x, layers.Dense(4, name=name.format(index))(x)])
    lines = str(kbp.explain(keras.Model(inputs, layers.Softmax()(x)))).splitlines()
    assert max(map(len, lines)) <= 100
    (row,) = (line.split("  ") for line in lines if line.startswith("a_block_with"))
    assert "…" in row[0]
    assert [cell[-5:] for cell in row[-2:]] == [" (12)", " (11)"]


def test_long_lists_are_shortened_and_records_are_not():
    groups = [layers.Dense(4, name=f"d{index}") for index in range(30)]
    inputs = keras.Input((3,))
    x = layers.Add()([dense(inputs) for dense in groups])
    explanation = kbp.explain(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    assert "d0, d1, d2, d3, d4, d5, d6, … (30)" in str(explanation)
    assert explanation.records()[0]["producers"] == ", ".join(f"d{n}" for n in range(30))


def test_records_are_flat_and_survive_json():
    explanation = kbp.explain(build("residual"))
    assert explanation.records()[0] == {
        "group": "stem",
        "channels": 8,
        "floor": 1,
        "prunable": True,
        "reason": None,
        "producers": "stem, restore1, restore2",
        "consumers": "reduce1, reduce2, head",
        "conv_groups": 1,
        "residual": True,
    }
    read = json.loads(explanation.to_json())
    assert read.pop("groups") == explanation.records()
    assert read == {
        "model_name": explanation.model_name,
        "parameters": 2043,
        "floor_parameters": 80,
        "macs": 124440,
        "floor_macs": 4035,
        "uncounted": [],
    }
