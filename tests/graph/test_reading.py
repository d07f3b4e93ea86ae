"""Reading: nested models inlined, arguments kept, and what has no graph."""

from __future__ import annotations

import keras
import pytest
from helpers.models import build
from keras import layers

from keras_branch_prune.graph.canonical import canonical


def test_nested_model_called_twice_shares_its_units():
    graph = canonical(build("nested_twice"))
    convs = [call.unit for call in graph.calls if call.unit.name == "inner__conv"]
    assert len(convs) == 2
    assert convs[0] is convs[1]


def test_training_argument_of_a_nested_call_reaches_its_layers():
    graph = canonical(build("nested_twice"))
    norms = [c for c in graph.calls if c.unit.cls is layers.BatchNormalization]
    assert [call.kwargs["training"] for call in norms] == [False, False]


def test_weights_are_referred_to_not_copied():
    model = build("mlp")
    unit = canonical(model).calls[0].unit
    assert unit.weights[0] is model.get_layer("hidden1").kernel


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


class Overriding(keras.Model):
    def call(self, inputs):
        return 2 * super().call(inputs)


def overriding():
    inputs = keras.Input((3,))
    return Overriding(inputs, layers.Dense(2)(inputs))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: "model.keras", TypeError, "must be a keras.Model. Received: str"),
        (lambda: keras.Sequential([layers.Dense(2)]), ValueError, "must be built"),
        (Subclassed, ValueError, "subclassed model .*Subclassed"),
        (overriding, ValueError, "must not override `call`.*Overriding"),
    ],
)
def test_models_without_a_graph_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        canonical(make())


def test_nested_model_that_overrides_call_stays_one_unit():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(overriding()(inputs)))
    assert [call.unit.cls for call in canonical(model).calls] == [Overriding, layers.Dense]


def test_quantized_layers_are_refused():
    model = build("mlp")
    model.get_layer("hidden1").quantize("int8")
    with pytest.raises(ValueError, match="layer 'hidden1' quantized to 'int8'"):
        canonical(model)
