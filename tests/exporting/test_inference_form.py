import keras
import numpy as np
import pytest
from helpers import models
from keras import layers

from keras_branch_prune.exporting.inference_form import inference_form
from keras_branch_prune.graph.equivalence import draw_inputs, relative_error


def _trained(model, seed=0):
    """Gives every BatchNormalization statistics and parameters that are not the identity."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights(
                [
                    rng.uniform(0.3, 2.0, x.shape) if "var" in x.path else rng.normal(0, 1, x.shape)
                    for x in layer.weights
                ]
            )
    return model


def _chain(shape, *parts):
    x = inputs = keras.Input(shape)
    for part in parts:
        x = part(x)
    return _trained(keras.Model(inputs, x))


def _classes(model):
    return [type(layer).__name__ for layer in model.layers[1:]]


def _assert_same(model, form, tolerance=2e-6):
    inputs = draw_inputs(model, 3)
    assert relative_error(model(inputs, training=False), form(inputs, training=False)) <= tolerance


BN, IMAGE = layers.BatchNormalization, (6, 8, 4)
FOLDABLE = {
    "dense": ((5,), layers.Dense(3, use_bias=False), BN()),
    "dense at every position": ((6, 5), layers.Dense(3), BN()),
    "conv1d": ((9, 4), layers.Conv1D(3, 3, padding="causal"), BN()),
    "conv2d": (IMAGE, layers.Conv2D(3, 3, use_bias=False), BN(epsilon=0.1)),
    "conv2d without scale": (IMAGE, layers.Conv2D(3, 3), BN(scale=False)),
    "conv2d without center": (IMAGE, layers.Conv2D(3, 3), BN(center=False)),
    "conv2d with neither": (
        IMAGE,
        layers.Conv2D(3, 3, use_bias=False),
        BN(scale=False, center=False),
    ),
    "conv2d, axis 3": (IMAGE, layers.Conv2D(3, 3), BN(axis=3)),
    "conv2d, grouped": (IMAGE, layers.Conv2D(6, 3, groups=2), BN()),
    "conv3d": ((4, 4, 4, 2), layers.Conv3D(3, 2), BN()),
    "transposed": (IMAGE, layers.Conv2DTranspose(3, 3, 2), BN()),
    "depthwise": (IMAGE, layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False), BN()),
    "depthwise1d": ((9, 4), layers.DepthwiseConv1D(3), BN()),
    "separable": (IMAGE, layers.SeparableConv2D(5, 3), BN()),
    "dropout between": (IMAGE, layers.Conv2D(3, 3), layers.Dropout(0.5), BN()),
}


@pytest.mark.parametrize("name", FOLDABLE)
def test_folds(name):
    shape, linear, *others = FOLDABLE[name]
    model = _chain(shape, linear, *others, layers.ReLU())
    form = inference_form(model)
    parts = ["DepthwiseConv2D", "Conv2D"] if name == "separable" else [type(linear).__name__]
    assert _classes(form) == [*parts, "ReLU"]
    assert form.layers[-2].use_bias
    _assert_same(model, form)


UNFOLDABLE = {
    "other axis": (IMAGE, layers.Conv2D(3, 3), BN(axis=1)),
    "activation": (IMAGE, layers.Conv2D(3, 3, activation="relu"), BN()),
    "activation that stays fused": (IMAGE, layers.DepthwiseConv2D(3, activation="relu"), BN()),
    "float32 after float16": (
        IMAGE,
        layers.Conv2D(3, 3, dtype="mixed_float16"),
        BN(dtype="float32"),
    ),
    "nothing linear": (IMAGE, layers.ReLU(), BN()),
    "before zero padding": (IMAGE, BN(), layers.Conv2D(3, 3, padding="same")),
}


@pytest.mark.parametrize("name", UNFOLDABLE)
def test_does_not_fold(name):
    shape, *parts = UNFOLDABLE[name]
    model = _chain(shape, *parts)
    form = inference_form(model)
    assert "BatchNormalization" in _classes(form)
    _assert_same(model, form, 0.0)


def test_channels_first_keeps_its_axis():
    inputs = keras.Input((4, 6, 8))
    x = layers.Conv2D(3, 3, data_format="channels_first", name="conv")(inputs)
    model = keras.Model(inputs, layers.ReLU()(BN(axis=1, epsilon=1e-2)(x)))
    _trained(model)
    form = inference_form(model)
    assert _classes(form) == ["Conv2D", "ReLU"]
    scale = model.layers[2].gamma / np.sqrt(model.layers[2].moving_variance + 1e-2)
    np.testing.assert_allclose(
        form.get_layer("conv").kernel, model.get_layer("conv").kernel * scale, rtol=1e-6
    )


def test_shared_layers_keep_theirs():
    inputs = keras.Input((4,))
    dense, norm = layers.Dense(4), BN()
    shared_dense = keras.Model(inputs, norm(dense(dense(inputs))))
    shared_norm = keras.Model(inputs, norm(layers.Dense(4)(norm(inputs))))
    block = keras.Sequential([keras.Input((4,)), layers.Dense(4), BN()])
    shared_block = keras.Model(inputs, block(block(inputs)))
    for model in (shared_dense, shared_norm, shared_block):
        form = inference_form(_trained(model))
        assert "BatchNormalization" in _classes(form)
        _assert_same(model, form)


def test_second_reader_and_output_prevent_folding():
    inputs = keras.Input((4,))
    x = layers.Dense(4)(inputs)
    read_twice = keras.Model(inputs, layers.Add()([x, BN()(x)]))
    x = layers.Dense(4, name="raw")(inputs)
    output = keras.Model(inputs, [x, BN(name="normed")(x)])
    for model in (read_twice, output):
        form = inference_form(_trained(model))
        assert "BatchNormalization" in _classes(form)
        _assert_same(model, form)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Dropout(0.5),
        layers.SpatialDropout1D(0.5),
        layers.AlphaDropout(0.5),
        layers.GaussianDropout(0.5),
        layers.GaussianNoise(0.5),
        layers.ActivityRegularization(0.1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_training_only_layers_are_removed(layer):
    model = _chain((5, 4), layer, layers.Dense(3))
    form = inference_form(model)
    assert _classes(form) == ["Dense"]
    _assert_same(model, form, 0.0)


def test_dropout_that_is_always_active_stays():
    inputs = keras.Input((4,))
    x = layers.Dropout(0.5, name="monte_carlo")(inputs, training=True)
    form = inference_form(keras.Model(inputs, layers.Dense(3)(x)))
    assert _classes(form) == ["Dropout", "Dense"]


def test_names_of_inputs_and_outputs_stay():
    image, noise = keras.Input(IMAGE, name="image"), keras.Input(IMAGE, name="noise")
    x = BN(name="normed")(layers.Conv2D(3, 3, name="conv")(image))
    dropped = layers.Dropout(0.5, name="dropped")(layers.Conv2D(3, 3, name="conv2")(noise))
    untouched = layers.Dropout(0.5, name="untouched")(noise)
    model = _trained(keras.Model({"image": image, "noise": noise}, [x, dropped, untouched]))
    form = inference_form(model)
    assert form.output_names == ["normed", "dropped", "untouched"]
    assert sorted(form.input) == ["image", "noise"]
    assert form.input["image"].shape == (None, *IMAGE)
    assert "BatchNormalization" not in _classes(form)
    _assert_same(model, form)


def test_dict_outputs_and_nested_models():
    inner = keras.Sequential(
        [keras.Input(IMAGE), layers.Conv2D(3, 3), BN(), layers.Dropout(0.1)], name="inner"
    )
    inputs = keras.Input(IMAGE)
    model = _trained(keras.Model(inputs, {"features": inner(inputs), "same": inputs}))
    form = inference_form(model)
    assert set(form.output) == {"features", "same"}
    assert form.output_names == model.output_names
    _assert_same(model, form)


def test_adapted_normalization_stays_adapted():
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(5, 3, (50, 4)))
    model = _chain((4,), normalization, layers.Dense(3), BN())
    _assert_same(model, inference_form(model))


@pytest.mark.parametrize("name", models.BUILDERS)
def test_named_models(name):
    model = models.build(name)
    _assert_same(model, inference_form(model))


def test_keras_application():
    build = keras.applications.MobileNetV2
    model = _trained(build(weights=None, input_shape=(32, 32, 3), classes=5))
    form = inference_form(model)
    assert "BatchNormalization" not in _classes(form)
    _assert_same(model, form, 1e-5)


def test_the_model_is_untouched():
    model = _chain((5,), layers.Dense(3), BN(), layers.Dropout(0.5))
    before, names = model.get_weights(), [layer.name for layer in model.layers]
    inference_form(model)
    assert [layer.name for layer in model.layers] == names
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_wrong_models():
    with pytest.raises(TypeError, match=r"must be a keras.Model. Received: str"):
        inference_form("model")
    with pytest.raises(ValueError, match="must be built"):
        inference_form(keras.Sequential([layers.Dense(3)]))
