import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_branch_prune.analysis.costs import count_macs, count_parameters, model_costs
from keras_branch_prune.graph.canonical import canonical
from keras_branch_prune.layers.channel_map import ChannelMap
from keras_branch_prune.rules.table import layer_macs


def _one(shape, layer):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


# Image 8 × 10 × 4 or the like; every number is positions · kernel positions · inputs · outputs.
LAYERS = {
    "dense": ((5,), layers.Dense(3), 5 * 3),
    "dense at every position": ((7, 6, 5), layers.Dense(3), 7 * 6 * 5 * 3),
    "conv1d": ((9, 4), layers.Conv1D(5, 3, strides=2), 4 * 3 * 4 * 5),
    "conv1d causal": ((9, 4), layers.Conv1D(5, 3, padding="causal"), 9 * 3 * 4 * 5),
    "conv1d dilated": ((9, 4), layers.Conv1D(5, 3, dilation_rate=3), 3 * 3 * 4 * 5),
    "conv2d valid": ((8, 10, 4), layers.Conv2D(5, (3, 2)), 6 * 9 * 3 * 2 * 4 * 5),
    "conv2d same": ((8, 10, 4), layers.Conv2D(5, 3, padding="same"), 80 * 9 * 4 * 5),
    "conv2d strided": ((8, 10, 4), layers.Conv2D(5, 3, 2, padding="same"), 20 * 9 * 4 * 5),
    "conv2d grouped": ((8, 10, 4), layers.Conv2D(6, 3, groups=2), 48 * 9 * 2 * 6),
    "conv3d": ((4, 5, 6, 2), layers.Conv3D(3, 2), 3 * 4 * 5 * 8 * 2 * 3),
    "depthwise": ((8, 10, 4), layers.DepthwiseConv2D(3, depth_multiplier=2), 48 * 9 * 4 * 2),
    "depthwise1d": ((8, 4), layers.DepthwiseConv1D(3, 2, padding="same"), 4 * 3 * 4),
    "separable": ((8, 10, 4), layers.SeparableConv2D(5, 3), 48 * (9 * 4 + 4 * 5)),
    "transposed": ((3, 5, 4), layers.Conv2DTranspose(6, 3, 2), 15 * 9 * 4 * 6),
    "einsum": ((7, 6), layers.EinsumDense("abc,cde->abde", (7, 2, 3)), 7 * 6 * 2 * 3),
    "einsum ellipsis": ((7, 6), layers.EinsumDense("...x,xy->...y", 5), 7 * 6 * 5),
    "channel map": ((3, 8), ChannelMap([(1, 2, 4), (3, 2, 1)], axis=-1), 3 * (2 * 4 + 3 * 2)),
    "channel map, first": ((2, 3, 5), ChannelMap([(1, 2, 4)], axis=1), 3 * 5 * 2 * 4),
    "prelu": ((8, 10, 4), layers.PReLU(), 0),
    "batch normalization": ((8, 10, 4), layers.BatchNormalization(), 0),
    "embedding": ((7,), layers.Embedding(11, 4), 0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_macs_of_one_layer(name):
    shape, layer, expected = LAYERS[name]
    assert count_macs(_one(shape, layer)) == expected


def test_channels_first():
    inputs = keras.Input((4, 8, 10))
    model = keras.Model(inputs, layers.Conv2D(5, 3, data_format="channels_first")(inputs))
    assert count_macs(model) == 6 * 8 * 9 * 4 * 5


def test_multi_head_attention():
    query, value = keras.Input((7, 8)), keras.Input((9, 6))
    attention = layers.MultiHeadAttention(num_heads=3, key_dim=5, value_dim=4)
    projections = 7 * 8 * 15 + 9 * 6 * 15 + 9 * 6 * 12 + 7 * 12 * 8
    model = keras.Model([query, value], attention(query, value))
    assert count_macs(model) == projections + 7 * 9 * 3 * (5 + 4)


def test_grouped_query_attention():
    query, value, key = keras.Input((7, 8)), keras.Input((9, 8)), keras.Input((9, 6))
    attention = layers.GroupQueryAttention(head_dim=5, num_query_heads=4, num_key_value_heads=2)
    projections = 7 * 8 * 20 + 9 * 6 * 10 + 9 * 8 * 10 + 7 * 20 * 8
    model = keras.Model([query, value, key], attention(query, value, key))
    assert count_macs(model) == projections + 7 * 9 * 4 * (5 + 5)


def test_every_use_of_a_shared_layer_counts_but_its_parameters_once():
    inputs = keras.Input((6,))
    shared = layers.Dense(6, name="shared")
    costs = model_costs(keras.Model(inputs, shared(shared(inputs))))
    assert costs.layers == {"shared": 72}
    assert (costs.macs, costs.parameters) == (72, 42)


def test_parameters_include_statistics():
    model = _one((5,), layers.BatchNormalization())
    assert count_parameters(model) == 20


def _small_cnn():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3), batch_size=1),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.Conv2D(4, 3, strides=2, use_bias=False),
            layers.Flatten(),
            layers.Dense(10, use_bias=False),
        ]
    )


def test_agrees_with_tensorflows_profiler():
    model = _small_cnn()
    function = tf.function(lambda x: model(x, training=False))
    graph = function.get_concrete_function(tf.TensorSpec((1, 12, 12, 3))).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    flops = tf.compat.v1.profiler.profile(graph, cmd="op", options=options).total_float_ops
    assert count_macs(model) == flops / 2


def test_known_model():
    model = keras.applications.MobileNetV2(weights=None)
    assert count_macs(model) == pytest.approx(300e6, rel=0.01)
    assert count_parameters(model) == 3_538_984


def test_open_dimension_names_the_layer_and_the_remedy():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.Conv2D(4, 3, name="stem")(inputs))
    with pytest.raises(ValueError, match=r"'stem' depend on an open dimension.*`input_shape="):
        count_macs(model)
    assert count_macs(model, input_shape=(5, 6, 3)) == 12 * 9 * 3 * 4


def test_input_shapes_by_name():
    one, other = keras.Input((None, 3), name="one"), keras.Input((4,), name="other")
    model = keras.Model([one, other], [layers.Dense(2)(one), layers.Dense(2)(other)])
    assert count_macs(model, {"one": (5, 3), "other": (4,)}) == 5 * 6 + 8
    with pytest.raises(ValueError, match=r"`input_shape` must be one shape per model input"):
        count_macs(model, (5, 3))


@pytest.mark.parametrize("shape", [(5,), (5, 4), (5, 3, 1)])
def test_input_shape_that_does_not_fit(shape):
    model = _one((None, 3), layers.Dense(2))
    with pytest.raises(ValueError, match=r"`input_shape` must fit input .* Received"):
        count_macs(model, shape)


@pytest.mark.parametrize("size", [0, 5.0, True, "5", None])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="`input_shape` must be an integer of at least 1. .*="):
        count_macs(_one((None, 3), layers.Dense(2)), (size, 3))


class Mixer(layers.Dense):
    """A subclass may do anything: it does not inherit the entry of its parent."""


def test_layers_without_entry_are_reported_not_guessed():
    inputs = keras.Input((6, 5))
    x = layers.LSTM(4, return_sequences=True, name="memory")(Mixer(5, name="mixer")(inputs))
    x = layers.Dense(3, name="known")(ops.matmul(x, ops.transpose(x, (0, 2, 1))))
    model = keras.Model(inputs, x)
    costs = model_costs(model)
    assert costs.uncounted[:2] == ("mixer", "memory")
    assert len(costs.uncounted) == 3
    assert costs.macs == 6 * 6 * 3
    with pytest.warns(UserWarning, match="mixer, memory, matmul"):
        assert count_macs(model) == costs.macs


def test_layer_macs_is_per_call():
    graph = canonical(_small_cnn())
    assert [layer_macs(call) for call in graph.calls] == [31104, 7200, 0, 1000]


def test_wrong_models():
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model. Received: ndarray"):
        count_macs(np.zeros(3))
    with pytest.raises(ValueError, match="must be built"):
        count_macs(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="must be built"):
        count_parameters(keras.Sequential([layers.Dense(3)]))
