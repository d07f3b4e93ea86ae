"""The layer that holds α, and how it is read and set."""

import math

import keras
import numpy as np
import pytest
from helpers.alpha_meter import alpha_meter
from helpers.arrays import random

import keras_branch_prune as kbp
from keras_branch_prune.layers.alpha import Alpha, alpha_layer


def test_alpha_state():
    layer = Alpha(frozen=["conv"])
    layer.build((None, 3))
    assert [weight.name for weight in layer.weights] == ["alpha", "step", "wait", "best"]
    assert [str(weight.dtype) for weight in layer.weights] == [
        "float32",
        "int32",
        "int32",
        "float32",
    ]
    assert not layer.trainable_weights
    assert [float(weight) for weight in layer.weights[:3]] == [1.0, 0.0, 0.0]
    assert np.isnan(float(layer.best))
    assert Alpha.from_config(layer.get_config()).frozen == ("conv",)


def test_alpha_emits_a_float32_scalar_whatever_the_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = Alpha()
        symbolic = layer(keras.Input((3,)))
    finally:
        keras.config.set_dtype_policy("float32")
    layer.alpha.assign(0.999)
    eager = layer(random(5, 3))
    assert (symbolic.shape, symbolic.dtype) == ((), "float32")
    assert (tuple(eager.shape), float(eager)) == ((), float(np.float32(0.999)))


def test_get_and_set_alpha():
    model = alpha_meter()
    assert kbp.get_alpha(model) == 1.0
    for value in (0.1, 0.7, 0, 1, np.float32(0.3)):
        kbp.set_alpha(model, value)
        assert kbp.get_alpha(model) == pytest.approx(float(value), abs=1e-7)
        assert float(model(np.ones((1, 1)))[0, 0]) == np.float32(value)


def test_finds_alpha_in_a_surrounding_model():
    branched = alpha_meter()
    outer = keras.Sequential([keras.Input((1,)), branched, keras.layers.Dense(1)])
    kbp.set_alpha(outer, 0.25)
    assert kbp.get_alpha(branched) == 0.25


def plain_model():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)], name="plain")


def two_alphas():
    inputs = keras.Input((1,))
    outputs = [Alpha(name="first")(inputs), Alpha(name="second")(inputs)]
    return keras.Model(inputs, [keras.ops.add(inputs, output) for output in outputs])


def test_model_without_alpha():
    message = "'plain' is not a branched model; call keras_branch_prune.branch first"
    with pytest.raises(ValueError, match=message):
        kbp.get_alpha(plain_model())
    with pytest.raises(ValueError, match=message):
        kbp.set_alpha(plain_model(), 0.5)
    model = plain_model()
    model.compile(loss="mse")
    with pytest.raises(ValueError, match=message):
        model.fit(np.ones((1, 1)), np.ones((1, 1)), callbacks=[kbp.AlphaStepDecay()], verbose=0)


def test_model_with_two_alphas():
    with pytest.raises(ValueError, match=r"exactly one `Alpha` layer.*\['first', 'second'\]"):
        alpha_layer(two_alphas())


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, None, "0.5", True])
def test_wrong_alpha(value):
    with pytest.raises(ValueError, match=r"`value` must be a number in \[0, 1\]. Received: value="):
        kbp.set_alpha(alpha_meter(), value)
