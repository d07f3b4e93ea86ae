"""Which groups `include`, `exclude`, `scope` and `residual` take."""

from __future__ import annotations

import keras
import pytest
from helpers.models import build

import keras_branch_prune as kbp

CHAIN = ["stem", "reduce1", "reduce2"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, CHAIN),
        ({"include": "reduce1"}, ["reduce1"]),
        ({"include": "restore2"}, ["stem"]),
        ({"include": "reduce?"}, ["reduce1", "reduce2"]),
        ({"include": ["stem", "*2"]}, ["stem", "reduce2"]),
        ({"include": lambda group: group.channels == 6}, ["reduce1", "reduce2"]),
        ({"exclude": "reduce*"}, ["stem"]),
        ({"exclude": [lambda group: len(group.producers) > 1, "reduce2"]}, ["reduce1"]),
        ({"include": "reduce*", "exclude": "*1"}, ["reduce2"]),
        ({"residual": False}, ["reduce1", "reduce2"]),
    ],
)
def test_selection(options, expected):
    plan = kbp.plan(build("residual"), width=0.5, **options)
    assert [group.name for group in plan.groups] == expected


def test_scope_is_what_a_nested_model_consists_of():
    model = build("nested_twice")
    plan = kbp.plan(model, width=0.5, scope="inner")
    assert plan.kept.keys() == {"inner__conv", "inner__project"}
    assert kbp.plan(model, width=0.5).kept.keys() > plan.kept.keys()
    assert kbp.plan(model, width=0.5, include="inner__*").groups == plan.groups
    assert ("scope", "inner") in plan.target


def test_scope_finds_models_in_models():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, name="a")], name="deep")
    outer = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(6, name="b")], name="o")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(outer(inputs)))
    names = [g.name for g in kbp.plan(model, width=0.5, scope="deep").groups]
    assert names == ["o__deep__a"]
    assert len(kbp.plan(model, width=0.5, scope=["deep", "o"]).groups) == 2


def test_groups_out_of_the_selection_keep_their_width_exactly():
    # Rounded, a width of 6 channels would be 5.
    plan = kbp.plan(build("conv_bn"), width=0.7, include="conv1", round_to=5)
    named = kbp.plan(build("conv_bn"), width={"conv1": 0.7}, round_to=5)
    assert plan.kept.keys() == named.kept.keys() == {"conv1"}
    assert plan.groups == named.groups


def test_the_target_records_the_selection():
    def wide(group):
        return group.channels > 6

    options = {"include": ["stem", wide], "exclude": "reduce1", "residual": True}
    plan = kbp.plan(build("residual"), width=0.5, **options)
    pairs = [("include", "stem"), ("include", "wide"), ("exclude", "reduce1"), ("residual", True)]
    assert set(pairs) <= set(plan.target)
    assert kbp.PruningPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": "nothing"}, "`include` matches no channel group. Received: 'nothing'"),
        ({"include": ["stem", "no*"]}, r"`include` matches no channel group. Received: 'no\*'"),
        ({"exclude": "stem7"}, "`exclude` matches no channel group. Received: 'stem7'"),
        ({"scope": "encoder"}, "`scope` matches no channel group. Received: 'encoder'"),
        ({"include": "head"}, "(?s)must leave a channel group.*head: is a model output"),
        ({"exclude": "*"}, "must leave a channel group that can be pruned"),
        ({"include": "stem", "residual": False}, "must leave a channel group"),
        ({"width": {"stem": 0.5}, "residual": False}, "`width` names group 'stem', which"),
    ],
)
def test_bad_selections(options, message):
    with pytest.raises(ValueError, match=message):
        kbp.plan(build("residual"), **{"width": 0.5, **options})


@pytest.mark.parametrize("argument", ["include", "exclude", "scope"])
def test_selectors_are_text_or_functions(argument):
    with pytest.raises(TypeError, match=f"`{argument}` must consist of .* Received: 3"):
        kbp.plan(build("residual"), width=0.5, **{argument: [3]})
