from __future__ import annotations

import keras
import pytest
from helpers.invariants import check_invariants
from helpers.models import build, randomized
from keras import layers

import keras_branch_prune as kbp


def reasons(model):
    return {group.name: group.reason for group in kbp.explain(model).groups}


def test_channel_maps_are_narrowed_and_their_output_shape_follows():
    compact = check_invariants(build("einsum_mlp"))
    shapes = {name: compact.get_layer(name).get_config()["output_shape"] for name in "abcd"}
    assert shapes == {"a": (5, 4), "b": (5,), "c": (6, 5), "d": (5, 3)}
    assert compact.get_layer("a").get_config()["activation"] == "gelu"


@pytest.mark.parametrize(
    ("equation", "shape", "bias_axes"),
    [
        ("abc,cde->abde", (None, 2, 3), None),
        ("abc,bcd->abd", (6, 3), None),
        ("abc,cd->abd", (6, 3), "bd"),
        ("ab...,bc->ac...", (3,), None),
    ],
)
def test_other_equations_are_barriers(equation, shape, bias_axes):
    inputs = keras.Input((6, 4))
    x = layers.Dense(8, name="before")(inputs)
    x = layers.EinsumDense(equation, shape, bias_axes=bias_axes, name="einsum")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    expected = f"'einsum' (EinsumDense) has an equation that is no channel map, {equation!r}"
    assert reasons(model) == {"before": expected, "head": "is a model output"}


def test_a_map_along_another_axis_is_a_barrier():
    inputs = keras.Input((6, 4))
    x = layers.Dense(8, name="before")(inputs)
    x = layers.EinsumDense("abc,bd->adc", (3, 8), name="einsum")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    assert reasons(model)["before"] == "'einsum' (EinsumDense) reads another axis than the channels"


def test_lora_is_a_barrier():
    model = build("einsum_mlp")
    model.get_layer("b").enable_lora(2)
    assert "more weights than a kernel and a bias" in reasons(model)["a"]


def test_time_distributed_dense_is_the_dense():
    model = build("einsum_mlp")
    compact = check_invariants(model)
    assert isinstance(compact.get_layer("steps"), layers.Dense)
    assert compact.get_layer("steps").units == 4


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.TimeDistributed(layers.Conv1D(4, 1), name="wrap"), "around a Dense layer only"),
        (layers.TimeDistributed(layers.Bidirectional(layers.GRU(3)), name="wrap"), "a Dense layer"),
        (layers.TimeDistributed(layers.LayerNormalization(), name="wrap"), "a Dense layer only"),
    ],
)
def test_other_layers_applied_step_by_step_are_barriers(layer, reason):
    inputs = keras.Input((6, 4, 3))
    x = layer(layers.Dense(8, name="before")(inputs))
    model = randomized(keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x))))
    with pytest.raises(AssertionError, match=rf"'wrap' \(TimeDistributed\) .*{reason}"):
        raise AssertionError(reasons(model)["before"])


@pytest.mark.parametrize(
    "layer",
    [
        layers.LSTM(3, name="cell"),
        layers.GRU(3, name="cell"),
        layers.SimpleRNN(3, name="cell"),
        layers.RNN(layers.LSTMCell(3), name="cell"),
        layers.Bidirectional(layers.LSTM(3), name="cell"),
    ],
)
def test_recurrent_layers_are_barriers(layer):
    inputs = keras.Input((6, 4))
    x = layer(layers.Dense(8, name="before")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    assert reasons(model)["before"] == f"'cell' ({type(layer).__name__}) is recurrent"


def test_convolutional_recurrent_layers_are_barriers():
    inputs = keras.Input((2, 6, 6, 4))
    x = layers.ConvLSTM2D(3, 3, name="cell")(layers.Dense(8, name="before")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    assert reasons(model)["before"] == "'cell' (ConvLSTM2D) is recurrent"
