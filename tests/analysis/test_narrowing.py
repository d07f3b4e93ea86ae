from __future__ import annotations

import keras
import pytest
from helpers.invariants import check_invariants
from helpers.models import BUILDERS, build, randomized
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.analysis.groups import analyse
from keras_branch_prune.analysis.narrowing import narrowed_graph
from keras_branch_prune.graph.building import build_model
from keras_branch_prune.graph.canonical import canonical, fuse
from keras_branch_prune.graph.equivalence import check_equivalent


def merged_and_narrowed(model, width=0.5):
    plan = kbp.plan(model, width=width)
    branched = kbp.branch(model, plan)
    kbp.set_alpha(branched, 0)
    narrowed = narrowed_graph(analyse(canonical(model)), plan.kept)
    return kbp.merge(branched), build_model(fuse(narrowed))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_narrowed_graph_is_the_compact_model_of_the_channels_that_stay(name):
    check_equivalent(*merged_and_narrowed(build(name)))


def test_shared_layers_stay_shared_where_they_can():
    keras.utils.clear_session()
    inputs = keras.Input((6,))
    relu, norm, to_row = layers.ReLU(), layers.LayerNormalization(), layers.Reshape((1, 8))
    a = relu(layers.Dense(8, name="a")(inputs))
    b = relu(layers.Dense(8, name="b")(inputs))
    x = [norm(a), norm(to_row(a)), to_row(b)]
    outputs = [layers.Dense(2, name=f"head{n}")(tensor) for n, tensor in enumerate(x)]
    model = randomized(keras.Model(inputs, outputs))
    widths = {"a": 0.5, "b": 0.25}
    compact = check_invariants(model, widths)
    # Only a reshape to two widths must become two.
    names = [layer.name for layer in model.layers]
    assert sorted(layer.name for layer in compact.layers) == sorted([*names, "reshape_1"])
    merged, narrowed = merged_and_narrowed(model, widths)
    check_equivalent(merged, narrowed)
    assert merged.count_params() == narrowed.count_params()


def test_attention_that_returns_its_scores_stands_beside_what_is_narrowed():
    keras.utils.clear_session()
    inputs = keras.Input((5, 4))
    x = layers.Dense(8, name="before")(inputs)
    x, scores = layers.GroupQueryAttention(4, 4, 2)(x, x, return_attention_scores=True)
    y = layers.Dense(2)(layers.Dense(6, name="hidden")(x))
    compact = check_invariants(randomized(keras.Model(inputs, [y, scores])))
    assert (compact.get_layer("before").units, compact.get_layer("hidden").units) == (8, 3)
