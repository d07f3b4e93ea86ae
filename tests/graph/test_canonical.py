from __future__ import annotations

import keras
import pytest
from helpers.models import BUILDERS, build, error_between, randomized
from keras import layers, ops

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


def test_nested_model_called_twice_shares_its_units():
    graph = canonical(build("nested_twice"))
    convs = [call.unit for call in graph.calls if call.unit.name == "inner__conv"]
    assert len(convs) == 2
    assert convs[0] is convs[1]


def test_training_argument_of_a_nested_call_reaches_its_layers():
    graph = canonical(build("nested_twice"))
    norms = [c for c in graph.calls if c.unit.cls is layers.BatchNormalization]
    assert [call.kwargs["training"] for call in norms] == [False, False]


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
