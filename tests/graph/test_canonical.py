from __future__ import annotations

import pytest
from helpers.models import BUILDERS, build, error_between

from keras_branch_prune.graph.activations import fuse_activations
from keras_branch_prune.graph.building import build_model
from keras_branch_prune.graph.canonical import canonical


def names(graph):
    return [call.unit.name for call in graph.calls]


@pytest.mark.parametrize("name", BUILDERS)
def test_canonical_form_equals_the_model(name):
    model = build(name)
    rebuilt = build_model(canonical(model))
    assert error_between(model, rebuilt) == 0.0
    expected = [tensor._keras_history.operation.name for tensor in model.outputs]
    assert rebuilt.output_names == expected


def test_inlines_nested_models_and_splits_activations():
    graph = canonical(build("sequential"))
    inlined = ["block__second", "block__relu"]
    assert names(graph) == ["first", "first__activation", *inlined, "flat", "last"]


def test_heads_keep_their_fused_activation():
    graph = canonical(build("mlp"))
    assert names(graph) == [
        "hidden1",
        "hidden1__activation",
        "hidden2",
        "hidden2__activation",
        "head",
    ]
    assert graph.calls[-1].unit.config["activation"] == "softmax"


def test_fusing_is_the_inverse_of_splitting():
    model = build("fused_activations")
    graph = fuse_activations(canonical(model))
    assert names(graph) == [layer.name for layer in model.layers[1:]]
    assert error_between(model, build_model(graph)) == 0.0
