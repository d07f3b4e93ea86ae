from __future__ import annotations

import pytest
from helpers.models import BUILDERS, build

import keras_branch_prune as kbp
from keras_branch_prune.analysis.groups import analyse
from keras_branch_prune.analysis.narrowing import narrowed_graph
from keras_branch_prune.graph.building import build_model
from keras_branch_prune.graph.canonical import canonical, fuse
from keras_branch_prune.graph.equivalence import check_equivalent


@pytest.mark.parametrize("name", BUILDERS)
def test_a_narrowed_graph_is_the_compact_model_of_the_channels_that_stay(name):
    model = build(name)
    plan = kbp.plan(model, width=0.5)
    branched = kbp.branch(model, plan)
    kbp.set_alpha(branched, 0)
    narrowed = narrowed_graph(analyse(canonical(model)), plan.kept)
    check_equivalent(kbp.merge(branched), build_model(fuse(narrowed)))
