from __future__ import annotations

import keras
from helpers.invariants import check_invariants
from helpers.models import build, randomized
from keras import layers
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

import keras_branch_prune as kbp


def groups_of(model):
    return {group.name: group for group in kbp.explain(model).groups}


def test_layer_scale_and_stochastic_depth_belong_to_the_residual_stream():
    model = build("convnext")
    assert groups_of(model)["stem"].producers == ("stem", "down1", "down2")
    assert groups_of(model)["stem"].prunable
    compact = check_invariants(model)
    assert compact.get_layer("scale1").get_config()["projection_dim"] == 4
    assert compact.get_layer("drop1").get_config()["drop_path_rate"] == 0.2


def test_scaled_sums_tie_their_inputs():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    y = layers.Conv2D(8, 1, name="residual")(layers.ReLU()(x))
    x = CustomScaleLayer(0.3, name="sum")([x, y])
    model = randomized(keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x)))
    assert groups_of(model)["stem"].producers == ("stem", "residual")
    assert check_invariants(model).get_layer("sum").scale == 0.3
