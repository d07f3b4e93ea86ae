from __future__ import annotations

import keras
import pytest
from helpers.invariants import check_invariants
from helpers.models import build, randomized
from keras import layers

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


def test_a_reshape_tells_at_how_many_positions_channels_stand():
    groups = groups_of(build("generator"))
    assert {name: group.channels for name, group in groups.items()} == {
        **{"project": 6, "hidden": 6, "rows": 4, "columns": 4, "up": 4},
        **{"mix": 8, "last": 8, "head": 3},
    }
    assert groups["project"].producers == ("project", "shift")
    assert groups["project"].consumers == ("up",)
    assert groups["rows"].consumers == ("columns",)
    assert [name for name, reason in reasons(build("generator")).items() if reason] == ["head"]


def reshaped_twice(first, second):
    inputs = keras.Input((3,))
    x = layers.Dense(24, name="wide")(inputs)
    parts = [layers.Reshape(shape)(x) for shape in (first, second)]
    flat = [layers.Flatten()(layers.Conv1D(2, 1)(part)) for part in parts]
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Concatenate()(flat)))


def test_reshapes_of_the_same_channels_may_part_them_alike_only():
    alike = groups_of(reshaped_twice((6, 4), (6, 4)))["wide"]
    assert (alike.channels, alike.prunable) == (4, True)
    differently = groups_of(reshaped_twice((6, 4), (3, 8)))["wide"]
    assert "into positions that are not known as such" in differently.reason


def test_channels_that_are_cut_are_not_parted_into_positions():
    inputs = keras.Input((3,))
    x = layers.Dense(24, name="wide")(inputs)
    part = layers.Reshape((3, 4))(layers.ReLU()(x[:, :12]))
    rest = layers.Dense(2, name="rest")(x[:, 12:])
    head = layers.Dense(2, name="head")(layers.Flatten()(layers.Conv1D(2, 1)(part)))
    groups = groups_of(keras.Model(inputs, [head, rest]))
    assert "not known as such" in groups["wide[0:12]"].reason
    assert groups["wide[12:24]"].prunable


def test_channels_parted_into_positions_can_be_cut_behind():
    inputs = keras.Input((3,))
    x = layers.Reshape((2, 2, 6))(layers.Dense(24, name="wide")(inputs))
    parts = [layers.Conv2D(2, 1, name=f"conv{i}")(x[..., i : i + 3]) for i in (0, 3)]
    groups = groups_of(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Add()(parts)))))
    assert groups["wide[0:3]"].prunable
    assert groups["wide[3:6]"].prunable


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
        (layers.Normalization(axis=(1, 3), name="norm"), "'norm' .* along another axis"),
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


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.LSTM(4, name="memory"), "'memory' (LSTM) is recurrent"),
        (layers.GRU(4, return_sequences=True, name="memory"), "'memory' (GRU) is recurrent"),
        (layers.SimpleRNN(4, name="memory"), "'memory' (SimpleRNN) is recurrent"),
        (
            layers.Bidirectional(layers.LSTM(4), name="memory"),
            "'memory' (Bidirectional) is recurrent",
        ),
        (
            layers.TimeDistributed(layers.LayerNormalization(), name="steps"),
            "'steps' (TimeDistributed) is followed around a Dense layer only",
        ),
    ],
)
def test_layers_over_time_are_barriers_and_the_rest_is_pruned(layer, reason):
    inputs = keras.Input((5, 3))
    x = layers.Dense(6, name="free")(inputs)
    x = layer(layers.Dense(4, name="before")(layers.ReLU()(x)))
    x = layers.Dense(8, name="after")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    found = reasons(model)
    assert found == {"free": None, "before": reason, "after": None, "head": "is a model output"}
    check_invariants(randomized(model))


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


def conv(filters, name, **options):
    return layers.Conv2D(filters, 1, name=name, **options)


def model_of(inputs, x):
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))


def test_adding_differently_concatenated_groups_cuts_the_coarser_one():
    inputs = keras.Input((8, 8, 3))
    a, b, c = (conv(n, f"conv{n}")(inputs) for n in (2, 4, 6))
    groups = groups_of(model_of(inputs, layers.Add()([layers.Concatenate()([a, b]), c])))
    first, second = groups["conv2"], groups["conv4"]
    assert first.producers == ("conv2", "conv6")
    assert first.parts == ("conv2", "conv6[0:2]")
    assert (second.channels, second.parts) == (4, ("conv4", "conv6[2:6]"))
    assert first.prunable
    assert second.prunable
    assert first.consumers == second.consumers == ("head",)
    assert "conv6" not in groups


def test_a_cut_goes_on_to_all_that_are_tied():
    groups = groups_of(build("joined_concats"))
    assert groups["a"].parts == ("a", "c[0:4]", "d[0:4]")
    assert groups["b"].parts == ("b", "c[4:10]", "d[4:10]")
    assert groups["h[0:2]"].parts == ("h[0:2]", "g[0:2]", "i")
    assert groups["h[2:6]"].parts == ("h[2:6]", "g[2:6]", "j")


def test_a_part_is_cut_again_where_what_it_is_tied_to_is_cut():
    inputs = keras.Input((8, 8, 3))
    a, b, c, d, e = (
        conv(n, name)(inputs) for n, name in zip((4, 6, 10, 2, 4), "abcde", strict=True)
    )
    x = layers.Add()([layers.Concatenate()([a, b]), c])
    y = layers.Add()([b, layers.Concatenate()([d, e])])
    groups = kbp.explain(model_of(inputs, layers.Concatenate()([x, y]))).groups
    parts = {tuple(sorted(group.parts)) for group in groups if group.prunable}
    assert parts == {("a", "c[0:4]"), ("b[0:2]", "c[4:6]", "d"), ("b[2:6]", "c[6:10]", "e")}


def test_only_the_part_joined_with_fixed_channels_stays():
    groups = groups_of(build("joined_concats"))
    assert groups["e[0:4]"].reason == "is joined with channels that are fixed"
    assert groups["free"].parts == ("free", "e[4:8]")
    assert groups["free"].prunable


def test_a_group_concatenated_in_two_orders_is_tied_to_itself():
    inputs = keras.Input((8, 8, 3))
    a, b = conv(2, "a")(inputs), conv(4, "b")(inputs)
    x = layers.Add()([layers.Concatenate()([a, b]), layers.Concatenate()([b, a])])
    group, _ = kbp.explain(model_of(inputs, x)).groups
    assert sorted(group.parts) == ["a", "b[0:2]", "b[2:4]"]
    assert sorted(group.producers) == ["a", "b"]
    assert group.prunable


def test_cutting_ends_where_it_would_go_on_channel_by_channel():
    inputs = keras.Input((8, 8, 3))
    a, b = conv(1, "a")(inputs), conv(300, "b")(inputs)
    x = layers.Add()([layers.Concatenate()([a, b]), layers.Concatenate()([b, a])])
    groups = kbp.explain(model_of(inputs, x)).groups
    assert not any(group.prunable for group in groups)


@pytest.mark.parametrize("size", [3, 4])
def test_doubled_channels_are_not_joined_with_single_ones(size):
    inputs = keras.Input((8, 8, 3))
    doubled = layers.DepthwiseConv2D(1, depth_multiplier=2)(conv(4, "a")(inputs))
    b, c = conv(size, "b")(inputs), conv(8 - size, "c")(inputs)
    x = layers.Add(name="sum")([doubled, layers.Concatenate()([b, c])])
    found = reasons(model_of(inputs, x))
    expected = "'sum' (Add) joins groups that are concatenated differently"
    assert found["a"] == found["b"] == found["c"] == expected


def test_channels_at_several_positions_are_not_joined_with_single_ones():
    inputs = keras.Input((2, 2, 3))
    x = layers.Flatten()(conv(4, "conv")(inputs))
    y = layers.Dense(16, name="dense")(layers.Flatten()(inputs))
    found = reasons(model_of(inputs, layers.Add(name="sum")([x, y])))
    expected = "'sum' (Add) joins groups that are concatenated differently"
    assert found["conv"] == found["dense"] == expected


def test_channels_at_other_numbers_of_positions_are_not_joined():
    inputs = keras.Input((2, 2, 3))
    x, y = conv(4, "a")(inputs), layers.MaxPooling2D((1, 2))(conv(4, "b")(inputs))
    x, y = layers.Flatten()(x), layers.Flatten()(y)
    x = layers.Add(name="sum")([layers.Concatenate()([x, y]), layers.Concatenate()([y, x])])
    found = reasons(model_of(inputs, x))
    assert found["a"] == found["b"] == "'sum' (Add) joins groups that are concatenated differently"


def test_a_grouped_producer_is_not_cut():
    inputs = keras.Input((8, 8, 4))
    a, b = conv(2, "a")(inputs), conv(6, "b")(inputs)
    x = layers.Add()([layers.Concatenate()([a, b]), conv(8, "pairs", groups=2)(inputs)])
    found = reasons(model_of(inputs, x))
    assert found["a"] == found["b"] == "is split into 2 groups, but joined with other channels"


def test_conv_groups_hold_for_the_part_that_is_grouped():
    inputs = keras.Input((8, 8, 3))
    a, b = conv(6, "a")(inputs), conv(4, "b")(inputs)
    x = layers.Add()([conv(10, "c")(inputs), layers.Concatenate()([a, b])])
    grouped = conv(6, "grouped", groups=3)(a)
    model = model_of(inputs, layers.Concatenate()([x, grouped]))
    groups = groups_of(model)
    found = {group.parts: (group.conv_groups, group.prunable) for group in groups.values()}
    assert found[("a", "c[0:6]")] == (3, True)
    assert found[("b", "c[6:10]")] == (1, True)


def test_sums_make_residual_groups_and_gates_do_not():
    assert groups_of(build("residual"))["stem"].residual
    assert not groups_of(build("residual"))["reduce1"].residual
    assert not groups_of(build("gate"))["features"].residual
    groups = kbp.explain(build("shared_dense")).groups
    assert not any(group.residual for group in groups if len(group.producers) > 1)
