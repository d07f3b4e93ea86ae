"""What the table knows of every class agrees with Keras, and a layer of your own is complete."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers.invariants import ROUNDING
from helpers.models import error_between, perturb_maps, randomized
from keras import layers, ops

import keras_branch_prune as kbp
from keras_branch_prune.analysis.costs import model_costs
from keras_branch_prune.exporting.batch_norm_folding import fold_batch_norm
from keras_branch_prune.exporting.inference_form import inference_form
from keras_branch_prune.graph.attention_layers import HeadAttention, HeadProjection
from keras_branch_prune.graph.building import build_model
from keras_branch_prune.graph.canonical import canonical, fuse
from keras_branch_prune.layers.channel_map import ChannelMap
from keras_branch_prune.rules import Folding, table


@pytest.fixture(autouse=True)
def same_rules_afterwards(monkeypatch):
    monkeypatch.setattr(table, "_RULES", dict(table._RULES))


def f64(cls, *args, **options):
    return lambda **more: cls(*args, **options, **more, dtype="float64")


SERIES, IMAGE, CUBE = (9, 4), (6, 8, 4), (4, 5, 6, 4)

# By class: the shape of a sample with four channels, and layers without padding.
LINEAR = {
    layers.Dense: [((5, 4), f64(layers.Dense, 3))],
    layers.EinsumDense: [
        ((5, 4), f64(layers.EinsumDense, "abc,cd->abd", (5, 3), bias_axes="d")),
        ((5, 4), f64(layers.EinsumDense, "...x,yx->...y", (3,))),
        ((4, 5), f64(layers.EinsumDense, "abc,bd->adc", (3, 5))),
    ],
    layers.Conv1D: [(SERIES, f64(layers.Conv1D, 6, 3, dilation_rate=2, groups=2))],
    layers.Conv2D: [
        (IMAGE, f64(layers.Conv2D, 5, (3, 2), strides=2)),
        (IMAGE, f64(layers.Conv2D, 8, 3, groups=4)),
    ],
    layers.Conv3D: [(CUBE, f64(layers.Conv3D, 3, 2))],
    layers.Conv1DTranspose: [(SERIES, f64(layers.Conv1DTranspose, 3, 3, strides=2))],
    layers.Conv2DTranspose: [(IMAGE, f64(layers.Conv2DTranspose, 3, (3, 2), strides=2))],
    layers.Conv3DTranspose: [(CUBE, f64(layers.Conv3DTranspose, 3, 2))],
    layers.DepthwiseConv1D: [(SERIES, f64(layers.DepthwiseConv1D, 3, depth_multiplier=2))],
    layers.DepthwiseConv2D: [(IMAGE, f64(layers.DepthwiseConv2D, 3, depth_multiplier=2))],
    HeadProjection: [((5, 4), f64(HeadProjection, 6, num_heads=2))],
}
CASES = [(shape, make) for cases in LINEAR.values() for shape, make in cases]


def test_every_class_of_one_kernel_has_a_case():
    folding = {cls for cls, rule in table._RULES.items() if isinstance(rule, Folding)}
    activated = {cls for cls in table._RULES if table.activation_key(cls)}
    assert folding == activated == set(LINEAR)
    counted = {cls for cls, rule in table._RULES.items() if hasattr(rule, "macs")}
    channelwise = {cls for cls in counted if isinstance(table._RULES[cls], kbp.Channelwise)}
    assert counted - channelwise - set(LINEAR) == {
        *(ChannelMap, HeadAttention, layers.Embedding),
        *(layers.GroupQueryAttention, layers.MultiHeadAttention),
    }


def channel_axis(layer):
    """The axis of the channels, before and after; of an equation as it says."""
    if isinstance(layer, layers.EinsumDense) and "bd->adc" in layer.equation:
        return 1
    return -1


def norm(axis=-1):
    return layers.BatchNormalization(
        axis,
        epsilon=1e-2,
        gamma_initializer=keras.initializers.RandomUniform(-2, 2, 1),
        beta_initializer=keras.initializers.RandomUniform(-1, 1, 2),
        moving_mean_initializer=keras.initializers.RandomUniform(-1, 1, 3),
        moving_variance_initializer=keras.initializers.RandomUniform(0.3, 2, 4),
        dtype="float64",
    )


def chain(shape, *parts):
    x = inputs = keras.Input(shape, dtype="float64")
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def left_after_folding(model):
    """The numbers of BatchNormalization layers, after a comparison with the model."""
    folded = fold_batch_norm(model)
    inputs = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:]))
    expected, found = (np.asarray(m(inputs, training=False)) for m in (model, folded))
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
    return sum(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "make"), CASES)
def test_folding_agrees_with_keras(shape, make, bias):
    options = {} if "EinsumDense" in type(make()).__name__ else {"use_bias": bias}
    layer = make(**options)
    axis = channel_axis(layer)
    assert left_after_folding(chain(shape, layer, norm(axis), layers.ReLU(dtype="float64"))) == 0
    layer = make(**options)
    transposed = "Transpose" in type(layer).__name__
    relu = layers.ReLU(dtype="float64")
    # What a transposed convolution adds up differs at the border.
    assert left_after_folding(chain(shape, relu, norm(axis), layer)) == transposed


@pytest.mark.parametrize(("shape", "make"), CASES)
def test_nothing_is_folded_behind_an_activation_or_along_another_axis(shape, make):
    active = chain(shape, make(activation="tanh"), norm(-1), layers.ReLU(dtype="float64"))
    assert left_after_folding(active) == 1
    # The last layer of a model keeps its activation.
    (call,) = canonical(chain(shape, make(activation="tanh"))).calls
    ones = np.ones(call.outputs[0].shape[channel_axis(make())])
    axis = channel_axis(make()) % len(call.outputs[0].shape)
    assert table.rule_for(call.unit).fold_output(call, axis, ones, ones) is None
    layer = make()
    other = -1 if channel_axis(layer) == 1 else 1
    assert left_after_folding(chain(shape, layer, norm(other))) == 1
    assert left_after_folding(chain(shape, norm(other), make())) == 1


@pytest.mark.parametrize(("shape", "make"), CASES)
def test_macs_are_what_keras_adds_up(shape, make):
    """With ones everywhere and no bias, an output is the number of its products."""
    model = chain(shape, make())
    model.set_weights([np.ones(w.shape) if w.ndim > 1 else 0 * w for w in model.get_weights()])
    assert kbp.count_macs(model) == float(ops.sum(model(np.ones((1, *shape)))))


@pytest.mark.parametrize(("shape", "make"), CASES)
def test_activations_are_split_and_put_back(shape, make):
    model = randomized(chain(shape, make(activation="tanh", name="it"), layers.Flatten()))
    graph = canonical(model)
    assert [call.unit.name for call in graph.calls][:2] == ["it", "it__activation"]
    assert graph.calls[0].unit.config["activation"] == "linear"
    again = fuse(graph)
    assert len(again.calls) == 2
    assert again.calls[0].unit.config["activation"] == "tanh"
    assert error_between(model, build_model(graph)) == 0.0
    assert error_between(model, build_model(again)) == 0.0


def test_more_weights_than_a_kernel_and_a_bias_are_not_guessed():
    model = chain((5, 4), layers.Dense(3, lora_rank=2, name="lora", dtype="float64"), norm())
    assert model_costs(model).uncounted == ("lora",)
    assert left_after_folding(model) == 1


@keras.saving.register_keras_serializable(package="tests")
class MyDense(layers.Layer):
    """A user's linear layer: kernel `(outputs, inputs)`, a bias, an activation of another name."""

    def __init__(self, width, then="linear", **kwargs):
        super().__init__(**kwargs)
        self.width, self.then = width, then

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(self.width, input_shape[-1]), name="kernel")
        self.bias = self.add_weight(shape=(self.width,), name="bias")

    def call(self, inputs):
        x = ops.matmul(inputs, ops.transpose(self.kernel)) + self.bias
        return keras.activations.get(self.then)(x)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "then": self.then}


@pytest.fixture
def my_dense():
    rule = kbp.LinearMap("width", input_axis=1, output_axis=0, spatial=False, activation_key="then")
    kbp.register_rule(MyDense, rule)


def my_model():
    x = inputs = keras.Input((5, 6))
    for name in ("first", "second"):
        x = MyDense(8, "relu", name=name)(x)
    x = layers.BatchNormalization(name="norm")(MyDense(8, name="third")(x))
    x = layers.ReLU(name="relu")(x)
    return randomized(keras.Model(inputs, MyDense(2, "tanh", name="head")(x)))


def test_a_registered_linear_layer_is_counted(my_dense):
    costs = model_costs(my_model())
    expected = {"first": 5 * 6 * 8, "second": 5 * 64, "third": 5 * 64, "head": 5 * 8 * 2}
    assert (costs.layers, costs.uncounted) == (expected, ())


def test_a_registered_linear_layer_is_planned_by_macs_and_merged_exactly(my_dense):
    model = my_model()
    plan = kbp.plan(model, macs=0.5)
    assert {group.name for group in plan.groups} == {"first", "second", "third"}
    branched = kbp.branch(model, plan)
    assert error_between(model, branched) == 0.0
    assert branched.get_layer("first").then == "linear"
    kbp.set_alpha(branched, 0)
    perturb_maps(branched)
    compact = kbp.merge(branched)
    assert error_between(branched, compact) <= ROUNDING
    assert [layer.name for layer in compact.layers] == [layer.name for layer in model.layers]
    assert [compact.get_layer(n).then for n in ("first", "third", "head")] == [
        *("relu", "linear", "tanh")
    ]
    assert kbp.count_macs(compact) <= 0.5 * kbp.count_macs(model)
    assert compact.get_layer("second").width < 8


def test_batch_normalization_is_folded_into_a_registered_layer(my_dense):
    model = my_model()
    exported = inference_form(model)
    assert "norm" not in [layer.name for layer in exported.layers]
    assert error_between(model, exported) <= ROUNDING
    x = inputs = keras.Input((6,))
    x = layers.BatchNormalization(name="norm")(layers.ReLU()(x))
    model = randomized(keras.Model(inputs, MyDense(3, "relu")(x)))
    exported = inference_form(model)
    assert [type(layer) for layer in exported.layers[1:]] == [layers.ReLU, MyDense]
    assert error_between(model, exported) <= ROUNDING


def test_a_layer_that_cannot_be_given_a_bias_takes_in_nothing(my_dense, monkeypatch):
    monkeypatch.setattr(MyDense, "build", _build_without_bias)
    x = inputs = keras.Input((6,))
    x = layers.BatchNormalization(name="norm")(MyDense(3, name="linear")(x))
    model = randomized(keras.Model(inputs, layers.ReLU()(x)))
    assert kbp.count_macs(model) == 18
    assert "norm" in [layer.name for layer in fold_batch_norm(model).layers]


def _build_without_bias(self, input_shape):
    self.kernel = self.add_weight(shape=(self.width, input_shape[-1]), name="kernel")
    self.bias = 0.0


def test_without_its_rule_nothing_is_known_of_it():
    model = my_model()
    assert canonical(model).calls[0].unit.config["then"] == "relu"
    with pytest.warns(UserWarning, match="not known and not counted: first, second, third, head"):
        assert kbp.count_macs(model) == 0
    assert "norm" in [layer.name for layer in inference_form(model).layers]


class Bare:
    """A rule of a user's own that knows of channels only."""

    def __init__(self):
        self.rule = kbp.Channelwise(weight_axis=lambda axis: 1)
        self.trace, self.narrow = self.rule.trace, self.rule.narrow


def test_a_rule_that_knows_of_channels_only(monkeypatch):
    kbp.register_rule(MyDense, Bare())
    assert table.activation_key(MyDense) is None
    model = my_model()
    assert model_costs(model).uncounted == ("first", "second", "third", "head")
    assert "norm" in [layer.name for layer in fold_batch_norm(model).layers]
    kbp.register_rule(MyDense, kbp.Barrier("is mine"))
    assert canonical(model).calls[0].unit.config["then"] == "relu"
    kbp.register_rule(layers.Dense, Bare())
    assert model_costs(chain((4,), layers.Dense(3, use_bias=False))).macs == 0


def test_a_map_of_a_branched_model_is_counted_by_its_blocks():
    model = chain((3, 8), ChannelMap([(1, 2, 4), (3, 2, 1)], dtype="float64"))
    assert kbp.count_macs(model) == 3 * (2 * 4 + 3 * 2)
