"""Merging: what is refused, and what a merged model is."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.models import branched, build, error_between

import keras_branch_prune as kbp


def test_frozen_original_is_trainable_again_after_the_merge():
    result = branched(train_original=False)
    trainable = {variable.path.split("/")[0] for variable in result.trainable_variables}
    assert trainable == {
        "conv1__reduce", "bn1__pruned", "conv2__expand",
        "conv2__reduce", "bn2__pruned", "head__expand",
    }  # fmt: skip
    kbp.set_alpha(result, 0)
    compact = kbp.merge(result)
    assert all(layer.trainable for layer in compact.layers)


def test_layers_that_the_user_froze_stay_frozen():
    model = build("conv_bn")
    model.get_layer("conv1").trainable = False
    result = kbp.branch(model, kbp.plan(model, width=0.5), train_original=False)
    kbp.set_alpha(result, 0)
    compact = kbp.merge(result)
    assert [layer.name for layer in compact.layers if not layer.trainable] == ["conv1"]


def test_training_at_alpha_zero_leaves_the_merge_exact():
    result = branched("conv_bn")
    result.compile("sgd", "mse")
    kbp.set_alpha(result, 0)
    rng = np.random.default_rng(0)
    result.fit(rng.normal(size=(16, 8, 8, 3)), rng.normal(size=(16, 4)), epochs=2, verbose=0)
    assert error_between(result, kbp.merge(result)) <= 1e-5


def test_merge_refuses_alpha_above_zero():
    with pytest.raises(ValueError, match="must have α = 0 to be merged. Received: α = 1;"):
        kbp.merge(branched("mlp"))


def test_merge_refuses_a_model_that_is_not_branched():
    with pytest.raises(ValueError, match="not a branched model"):
        kbp.merge(build("mlp"))


def test_merge_notices_nan_weights():
    result = branched("mlp")
    kbp.set_alpha(result, 0)
    layer = result.get_layer("hidden1__reduce")
    layer.set_weights([np.full_like(w, np.nan) for w in layer.get_weights()])
    with pytest.raises(ValueError, match="differ by inf"):
        kbp.merge(result)


def test_compact_model_can_be_pruned_again():
    result = branched("conv_bn")
    kbp.set_alpha(result, 0)
    compact = kbp.merge(result)
    again = kbp.branch(compact, kbp.plan(compact, width=0.5))
    kbp.set_alpha(again, 0)
    assert kbp.merge(again).get_layer("conv1").filters == 2
