"""Distillation losses of single outputs, against NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_branch_prune.training.soft_targets import (
    SoftTargets,
    activation_of,
    make_loss,
    per_output,
)

T = 3.0


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def logits():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 4)), 3 * rng.normal(size=(5, 4))


def expected_kl():
    p, q = (softmax(x / T) for x in logits())
    return T**2 * np.mean(np.sum(p * np.log(p / q), axis=-1))


def expected_binary():
    p, q = (sigmoid(x / T) for x in logits())
    return T**2 * np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


@pytest.mark.parametrize("teacher", [None, "softmax"])
@pytest.mark.parametrize("student", [None, "softmax"])
def test_kl(teacher, student):
    t, s = logits()
    loss = SoftTargets(T, False, (teacher, student))
    value = loss(softmax(t) if teacher else t, softmax(s) if student else s)
    assert float(value) == pytest.approx(expected_kl(), rel=1e-4)


@pytest.mark.parametrize("teacher", [None, "sigmoid"])
@pytest.mark.parametrize("student", [None, "sigmoid"])
def test_binary(teacher, student):
    t, s = logits()
    loss = SoftTargets(T, True, (teacher, student))
    value = loss(sigmoid(t) if teacher else t, sigmoid(s) if student else s)
    assert float(value) == pytest.approx(expected_binary(), rel=1e-4)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_saturated_probabilities_stay_finite(name):
    p = np.array([[1.0, 0.0, 0.0]], "float32")
    loss = SoftTargets(T, name == "sigmoid", (name, name))
    assert float(loss(p, p)) == 0
    assert np.isfinite(float(loss(p, p[:, ::-1])))


def test_sample_weights():
    t, s = logits()
    loss = SoftTargets(T, False, (None, None))
    one = float(loss(t[:1], s[:1]))
    weighted = loss(t, s, sample_weight=np.array([2.0, 0, 0, 0, 0]))
    assert float(weighted) == pytest.approx(2 * one / 5, rel=1e-5)


def outputs():
    inputs = keras.Input((3,))
    x = layers.Dense(2)(inputs)
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(2, activation="softmax")])
    return {
        "linear": (x, None),
        "dense": (layers.Dense(2, activation="softmax")(inputs), "softmax"),
        "sigmoid": (layers.Dense(1, activation="sigmoid")(inputs), "sigmoid"),
        "relu": (layers.Dense(1, activation="relu")(inputs), None),
        "layer": (layers.Softmax()(x), "softmax"),
        "activation": (layers.Activation("sigmoid")(x), "sigmoid"),
        "first_axis": (layers.Softmax(axis=1)(layers.Reshape((2, 1))(x)), None),
        "operation": (ops.softmax(x), "softmax"),
        "nested": (inner(inputs), "softmax"),
    }


@pytest.mark.parametrize("name", outputs())
def test_activation_of(name):
    tensor, expected = outputs()[name]
    assert activation_of(tensor) == expected


@pytest.mark.parametrize(
    ("activation", "compiled", "expected"),
    [
        ("softmax", None, "kl"),
        ("sigmoid", "mse", "binary"),
        (None, keras.losses.SparseCategoricalCrossentropy(from_logits=True), "kl"),
        (None, keras.losses.BinaryCrossentropy(from_logits=True), "binary"),
        (None, "mse", "mse"),
        (None, keras.losses.BinaryCrossentropy(), "mse"),
    ],
)
def test_auto(activation, compiled, expected):
    loss = make_loss("auto", T, (activation, activation), compiled)
    t, s = logits()
    if activation:
        t, s = (softmax(x) if activation == "softmax" else sigmoid(x) for x in (t, s))
    values = {"kl": expected_kl(), "binary": expected_binary(), "mse": np.mean((t - s) ** 2)}
    assert float(loss(t, s)) == pytest.approx(values[expected], rel=1e-4)


@pytest.mark.parametrize(
    "loss",
    ["mean_absolute_error", keras.losses.MeanAbsoluteError(), keras.losses.mean_absolute_error],
    ids=["name", "object", "function"],
)
def test_keras_losses(loss):
    t, s = logits()
    value = make_loss(loss, T, (None, None), None)(t, s)
    assert float(value) == pytest.approx(np.mean(np.abs(t - s)), rel=1e-5)


def test_kind_and_activation_must_agree():
    with pytest.raises(ValueError, match="`loss` 'kl' must be of outputs that are logits or soft"):
        make_loss("kl", T, ("sigmoid", "sigmoid"), None)


def test_per_output():
    names = ["a", "b"]
    assert per_output("loss", "kl", names) == ["kl", "kl"]
    assert per_output("loss", ["kl", "mse"], names) == ["kl", "mse"]
    assert per_output("loss", {"b": 1, "a": 2}, names) == [2, 1]
    for wrong in (["kl"], {"a": 1}):
        with pytest.raises(ValueError, match="`loss` must have one value per output"):
            per_output("loss", wrong, names)
