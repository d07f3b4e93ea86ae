from __future__ import annotations

import keras
import pytest
from keras import layers
from models import build

import keras_branch_prune as kbp


def groups_of(model):
    return {group.name: group for group in kbp.explain(model).groups}


def reasons(model):
    return {name: group.reason for name, group in groups_of(model).items()}


def test_a_chain_has_one_group_per_producer():
    groups = groups_of(build("conv_bn"))
    assert groups["conv1"] == kbp.ChannelGroup("conv1", 8, ("conv1",), ("conv2",))
    assert groups["conv2"].consumers == ("head",)
    assert groups["head"].reason == "is a model output"


def test_a_residual_stream_is_one_group():
    groups = groups_of(build("residual"))
    assert groups["stem"].producers == ("stem", "restore1", "restore2")
    assert groups["stem"].consumers == ("reduce1", "reduce2", "head")
    assert groups["stem"].prunable
    assert groups["reduce1"].producers == ("reduce1",)


def test_a_gate_is_tied_and_a_single_channel_stays():
    groups = groups_of(build("gate"))
    assert groups["features"].producers == ("features", "excite")
    assert groups["mask"].reason == "is a single channel"


def test_a_concat_lays_groups_side_by_side():
    groups = groups_of(build("unet"))
    assert groups["down"].consumers == ("middle", "head")
    assert groups["up"].consumers == ("head",)
    assert groups["down"].prunable
    assert groups["up"].prunable


def test_a_shared_consumer_ties_its_inputs():
    groups = groups_of(build("shared_dense")).values()
    consumers = {frozenset(group.producers): group.consumers for group in groups}
    assert consumers[frozenset({"a", "b"})] == ("shared",)
    assert consumers[frozenset({"shared"})] == ("head",)


def test_barriers_are_named():
    found = reasons(build("barriers"))
    assert "'softmaxed__activation' (Activation) may mix channels" in found["softmaxed"]
    assert found["free"] is None
    assert "(Reshape) may move channels" in found["reshaped"]


class Unknown(layers.Layer):
    def call(self, inputs):
        return inputs


@keras.saving.register_keras_serializable(package="tests")
def my_activation(x):
    return x - keras.ops.mean(x, axis=-1, keepdims=True)


def model_with(layer, channels=4):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(channels, 3, padding="same", name="before")(inputs)
    x = layers.Conv2D(6, 3, padding="same", name="after")(layer(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Unknown(name="mystery"), r"'mystery' \(Unknown\) has no rule"),
        (layers.LayerNormalization((1, 2, 3), name="norm"), "'norm' .* along another axis"),
        (layers.Rescaling([1.0, 2.0, 3.0, 4.0], name="scale"), "'scale' .* for every channel"),
        (layers.Softmax(name="softmax"), "'softmax' .* mixes the channels"),
        (layers.BatchNormalization(axis=1, name="bn"), "'bn' .* along another axis"),
        (layers.Dropout(0.5, noise_shape=(None, 1, 1, 4), name="drop"), "'drop' .* noise_shape"),
        (layers.Activation(my_activation, name="custom"), "'custom' .* not elementwise"),
        (
            layers.MaxPooling2D(data_format="channels_first", padding="same", name="pool"),
            "'pool' .* along another axis",
        ),
    ],
)
def test_what_cannot_be_followed_is_a_barrier_and_the_rest_is_pruned(layer, reason):
    groups = groups_of(model_with(layer))
    assert not groups["before"].prunable
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(groups["before"].reason)
    assert groups["after"].prunable


def test_lora_is_a_barrier():
    model = build("mlp")
    model.get_layer("hidden2").enable_lora(2)
    assert "more weights than a kernel and a bias" in reasons(model)["hidden1"]


def test_joining_model_inputs_fixes_a_group():
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = layers.Add(name="skip")([inputs, x])
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert reasons(model)["conv"] == "'skip' (Add) joins it with channels that are fixed"


def test_adding_differently_concatenated_groups_fixes_them():
    inputs = keras.Input((8, 8, 3))
    a, b, c = (layers.Conv2D(n, 1, name=f"conv{n}")(inputs) for n in (2, 4, 6))
    x = layers.Add(name="sum")([layers.Concatenate()([a, b]), c])
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    expected = "'sum' (Add) joins groups that are concatenated differently"
    found = reasons(model)
    assert found["conv2"] == found["conv4"] == found["conv6"] == expected


def test_explanation_prints_every_group():
    text = str(kbp.explain(build("gate")))
    assert "2 of 4 channel groups prunable" in text
    assert "no: is a single channel" in text
    assert "features, excite" in text
