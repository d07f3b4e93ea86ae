import keras
import numpy as np
import pytest
from keras import layers
from keras.initializers import RandomUniform

from keras_branch_prune.exporting.batch_norm_folding import fold_batch_norm
from keras_branch_prune.graph.equivalence import draw_inputs, relative_error

IMAGE, SERIES = (6, 8, 4), (9, 4)


def _bn(**options):
    """A BatchNormalization in float64 that does not leave anything as it is."""
    # With `center=False` it is a scale alone: its mean stays 0.
    moved = {"moving_mean_initializer": RandomUniform(-1, 1, 1)} if "center" not in options else {}
    return layers.BatchNormalization(
        epsilon=1e-2,
        gamma_initializer=RandomUniform(-2, 2, 2),
        beta_initializer=RandomUniform(-1, 1, 3),
        moving_variance_initializer=RandomUniform(0.3, 2, 4),
        **moved,
        **options,
        dtype="float64",
    )


def _f64(cls, *args, **options):
    return cls(*args, bias_initializer="random_normal", **options, dtype="float64")


def _input(shape, name=None):
    return keras.Input(shape, name=name, dtype="float64")


def _chain(shape, *parts):
    x = inputs = _input(shape)
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def _norms(model):
    return sum(isinstance(layer, layers.BatchNormalization) for layer in model.layers)


def _assert_folds(model, left=0):
    folded = fold_batch_norm(model)
    assert _norms(folded) == left
    assert folded.output_names == model.output_names
    inputs = draw_inputs(model, 3)
    assert relative_error(model(inputs, training=False), folded(inputs, training=False)) <= 1e-12
    return folded


AFTER = {
    "dense": ((5,), _f64(layers.Dense, 4, use_bias=False)),
    "dense at every position": ((6, 5), _f64(layers.Dense, 4)),
    "conv1d": ((9, 3), _f64(layers.Conv1D, 4, 3, padding="causal")),
    "conv2d": ((6, 8, 3), _f64(layers.Conv2D, 4, 3, padding="same", strides=2)),
    "conv3d": ((4, 4, 4, 2), _f64(layers.Conv3D, 4, 2, use_bias=False)),
    "transposed": ((6, 8, 3), _f64(layers.Conv2DTranspose, 4, 3, strides=2, padding="same")),
    "transposed 1d": ((9, 3), _f64(layers.Conv1DTranspose, 4, 3, strides=2)),
    "depthwise": ((6, 8, 2), _f64(layers.DepthwiseConv2D, 3, depth_multiplier=2, padding="same")),
    "separable": ((6, 8, 3), _f64(layers.SeparableConv2D, 4, 3, padding="same")),
}


@pytest.mark.parametrize("name", AFTER)
def test_folds_into_the_layer_before(name):
    shape, linear = AFTER[name]
    folded = _assert_folds(_chain(shape, linear, _bn(), layers.Dropout(0.5), layers.ReLU()))
    assert [type(x).__name__ for x in folded.layers[-2:]] == ["Dropout", "ReLU"]


BEFORE = {
    "dense": ((4,), _f64(layers.Dense, 3)),
    "dense without bias": ((4,), _f64(layers.Dense, 3, use_bias=False)),
    "dense with activation": ((4,), _f64(layers.Dense, 3, activation="tanh")),
    "dense at every position": ((6, 4), _f64(layers.Dense, 3)),
    "conv1d": (SERIES, _f64(layers.Conv1D, 3, 3, dilation_rate=2)),
    "conv2d": (IMAGE, _f64(layers.Conv2D, 3, 3, strides=2)),
    "conv2d, grouped": (IMAGE, _f64(layers.Conv2D, 6, 3, groups=2)),
    "conv2d, one channel a group": (IMAGE, _f64(layers.Conv2D, 8, (3, 2), groups=4)),
    "conv2d of a pixel, padded": (IMAGE, _f64(layers.Conv2D, 3, 1, strides=2, padding="same")),
    "conv3d": ((4, 4, 4, 4), _f64(layers.Conv3D, 3, 2)),
    "depthwise": (IMAGE, _f64(layers.DepthwiseConv2D, 3, depth_multiplier=2)),
    "depthwise1d": (SERIES, _f64(layers.DepthwiseConv1D, 3, use_bias=False)),
    "separable": (IMAGE, _f64(layers.SeparableConv2D, 5, 3)),
    "transposed of a pixel": (IMAGE, _f64(layers.Conv2DTranspose, 3, 1)),
}


@pytest.mark.parametrize("name", BEFORE)
def test_folds_into_the_layer_after(name):
    shape, linear = BEFORE[name]
    _assert_folds(_chain(shape, layers.ReLU(dtype="float64"), _bn(), linear))


ZEROS = {
    "same": (IMAGE, _f64(layers.Conv2D, 3, 3, padding="same")),
    "causal": (SERIES, _f64(layers.Conv1D, 3, 2, padding="causal")),
    "depthwise": (IMAGE, _f64(layers.DepthwiseConv2D, 3, padding="same")),
    "transposed": (IMAGE, _f64(layers.Conv2DTranspose, 3, 2)),
    "transposed of a pixel with strides": (IMAGE, _f64(layers.Conv2DTranspose, 3, 1, strides=2)),
}


@pytest.mark.parametrize("name", ZEROS)
def test_added_zeros_allow_scales_only(name):
    shape, linear = ZEROS[name]
    _assert_folds(_chain(shape, layers.ReLU(dtype="float64"), _bn(), linear), left=1)
    _assert_folds(_chain(shape, layers.ReLU(dtype="float64"), _bn(center=False), linear))


def test_several_in_a_row():
    dense = _f64(layers.Dense, 4)
    _assert_folds(_chain((4,), _bn(), _bn(center=False), dense, _bn()))


def test_several_readers():
    inputs = _input(IMAGE)
    x = _bn()(inputs)
    heads = [_f64(layers.Conv2D, 3, 3)(x), _f64(layers.DepthwiseConv2D, 3)(x)]
    _assert_folds(keras.Model(inputs, heads))
    _assert_folds(keras.Model(inputs, [*heads, layers.ReLU(dtype="float64")(x)]), left=1)
    _assert_folds(keras.Model(inputs, [*heads, x]), left=1)


def test_a_linear_layer_with_another_reader():
    inputs = _input((4,))
    x = _f64(layers.Dense, 4)(inputs)
    _assert_folds(keras.Model(inputs, [x, _bn()(x)]), left=1)
    folded = _assert_folds(keras.Model(inputs, [x, _f64(layers.Dense, 3)(_bn()(x))]))
    assert len(folded.layers) == 3


def test_on_a_concatenation():
    left, right = _input((6, 8, 1), "left"), _input((6, 8, 3), "right")
    x = _bn()(layers.Concatenate(dtype="float64")([left, right]))
    _assert_folds(keras.Model([left, right], _f64(layers.Conv2D, 3, 3)(x)))
    _assert_folds(keras.Model([left, right], x), left=1)


def test_channels_first():
    inputs = _input((4, 6, 8))
    conv = _f64(layers.Conv2D, 3, 3, data_format="channels_first", name="conv")
    model = keras.Model(inputs, conv(_bn(axis=1)(inputs)))
    folded = fold_batch_norm(model)
    assert _norms(folded) == 0
    # TensorFlow has no such convolution on the CPU: the same weights, channels last, instead.
    same, twin = _input((6, 8, 4)), _f64(layers.Conv2D, 3, 3)
    twin = keras.Model(same, twin(same))
    twin.set_weights(folded.get_weights())
    norm = model.layers[1]
    other = _chain((6, 8, 4), _bn(), _f64(layers.Conv2D, 3, 3))
    other.layers[1].set_weights(norm.get_weights())
    other.layers[2].set_weights(model.get_layer("conv").get_weights())
    x = draw_inputs(twin, 3)
    assert relative_error(other(x, training=False), twin(x)) <= 1e-12


def test_other_axes_and_dtypes_stay():
    dense = _f64(layers.Dense, 3)
    assert _norms(fold_batch_norm(_chain((4, 4), _bn(axis=1), dense))) == 1
    half = _chain((4,), _bn(), layers.Dense(3, dtype="float32"))
    assert _norms(fold_batch_norm(half)) == 1


def test_shared_layers_keep_theirs():
    inputs = _input((4,))
    dense, norm = _f64(layers.Dense, 4), _bn()
    _assert_folds(keras.Model(inputs, dense(_bn()(dense(inputs)))), left=1)
    twice = keras.Model(inputs, norm(layers.ReLU(dtype="float64")(norm(inputs))))
    folded = fold_batch_norm(keras.Model(inputs, dense(twice(inputs))))
    assert _norms(folded) == 1


def test_training_mode_stays():
    inputs = _input((4,))
    x = _bn()(inputs, training=True)
    assert _norms(fold_batch_norm(keras.Model(inputs, _f64(layers.Dense, 3)(x)))) == 1


def test_names_stay_and_the_model_too():
    inputs = _input((4,), "features")
    hidden = layers.ReLU(name="hidden", dtype="float64")(_f64(layers.Dense, 4)(inputs))
    scores = _f64(layers.Dense, 3, name="scores")(_bn()(hidden))
    model = keras.Model(inputs, {"a": hidden, "b": scores})
    before = model.get_weights()
    folded = _assert_folds(model)
    assert folded.output_names == model.output_names == ["hidden", "scores"]
    assert folded.inputs[0].name == "features"
    assert set(folded.output) == {"a", "b"}
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_keras_application_in_float32():
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=5)
    folded = fold_batch_norm(model)
    assert _norms(model) == 52
    assert _norms(folded) == 0
    x = draw_inputs(model, 2)
    assert relative_error(model(x, training=False), folded(x, training=False)) <= 1e-5


def test_wrong_models():
    with pytest.raises(TypeError, match=r"must be a keras.Model. Received: str"):
        fold_batch_norm("model")
    with pytest.raises(ValueError, match="must be built"):
        fold_batch_norm(keras.Sequential([layers.Dense(3)]))
