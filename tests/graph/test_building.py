"""Building: a rebuilt model equals its graph, or the layer that cannot be rebuilt is named."""

from __future__ import annotations

import keras
import pytest
from helpers.models import error_between, randomized
from keras import layers, ops

from keras_branch_prune.graph.building import build_model
from keras_branch_prune.graph.canonical import canonical


def test_operations_slices_and_operators():
    inputs = keras.Input((8, 8, 3))
    x = ops.relu(layers.Conv2D(4, 3)(inputs) * 0.5 + 1.0)[:, 1:, :, :]
    model = randomized(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    nodes = [len(operation._inbound_nodes) for operation in model.operations]
    assert error_between(model, build_model(canonical(model))) == 0.0
    assert [len(operation._inbound_nodes) for operation in model.operations] == nodes


def test_model_on_an_inner_tensor_of_another_model():
    inputs = keras.Input((8,))
    hidden = layers.Dense(5, activation="relu")(inputs)
    whole = keras.Model(inputs, layers.Dense(2)(hidden))
    head = keras.Model(hidden, whole.output)
    assert error_between(head, build_model(canonical(head))) == 0.0


def test_optional_and_integer_inputs():
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(7, 4)(tokens))
    model = keras.Model(tokens, layers.Dense(2)(x))
    assert error_between(model, build_model(canonical(model))) == 0.0


class NoConfig(layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def test_a_layer_without_a_usable_config_is_named():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, NoConfig(ops.square)(inputs))
    with pytest.raises(ValueError, match="'no_config' of class NoConfig"):
        build_model(canonical(model))
