"""Training with a teacher and with matched branches."""

from __future__ import annotations

import math
import re

import keras
import numpy as np
import pytest
from helpers.models import dtype_policy
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.layers.blend import AlphaBlend


def classifier(seed=0, activation="softmax"):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((6,))
    x = layers.Dense(8, name="hidden")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    return keras.Model(inputs, layers.Dense(3, activation=activation, dtype="float32")(x))


def branched(seed=1):
    model = classifier(seed)
    return kbp.branch(model, kbp.plan(model, width=0.5))


def data(size=24, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 6)).astype("float32"), rng.integers(0, 3, size)


def fit(distiller, epochs=1, x_y=None, loss="sparse_categorical_crossentropy", **options):
    compiled = {k: options.pop(k) for k in ("steps_per_execution", "jit_compile") if k in options}
    distiller.compile(keras.optimizers.SGD(0.1), loss, **compiled)
    x, y = x_y or data()
    return distiller.fit(x, y, epochs=epochs, verbose=0, shuffle=False, **options).history


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def expected_terms(model, teacher, x, y, temperature=4.0):
    """Task loss and distillation loss of softmax outputs, with NumPy."""
    p, q = (np.asarray(m(x), "float64") for m in (teacher, model))
    soft_p, soft_q = (softmax(np.log(z) / temperature) for z in (p, q))
    task = -np.mean(np.log(q[np.arange(len(y)), y]))
    kl = np.mean(np.sum(soft_p * np.log(soft_p / soft_q), axis=-1))
    return task, temperature**2 * kl


# Distillation


@pytest.mark.parametrize("weight", [0, 0.3, 1])
def test_loss_is_the_weighted_sum(weight):
    model, teacher = branched(), classifier()
    distiller = kbp.Distiller(model, teacher, weight=weight, temperature=2.5)
    distiller.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = data()
    logs = distiller.evaluate(x, y, batch_size=10, verbose=0, return_dict=True)
    task, distillation = expected_terms(model, teacher, x, y, 2.5)
    assert set(logs) == {"loss", "task_loss", "distillation_loss", "accuracy"}
    assert logs["task_loss"] == pytest.approx(task, rel=1e-4)
    assert logs["distillation_loss"] == pytest.approx(distillation, rel=1e-4)
    assert logs["loss"] == pytest.approx((1 - weight) * task + weight * distillation, rel=1e-4)


def test_training_and_validation_are_logged():
    distiller = kbp.Distiller(branched(), classifier(), matching=0.1)
    history = fit(distiller, 2, validation_data=data(seed=1))
    terms = {"loss", "task_loss", "distillation_loss", "matching_loss"}
    assert set(history) == terms | {f"val_{term}" for term in terms}
    total = 0.5 * np.array(history["task_loss"]) + 0.5 * np.array(history["distillation_loss"])
    np.testing.assert_allclose(
        history["loss"], total + 0.1 * np.array(history["matching_loss"]), rtol=1e-5
    )
    validation = [0.5 * (np.array(history[f"val_{t}_loss"])) for t in ("task", "distillation")]
    np.testing.assert_allclose(history["val_loss"], sum(validation), rtol=1e-5)


def test_call_is_the_model():
    distiller = kbp.Distiller(model := branched(), classifier(), matching=1.0)
    x, _ = data()
    np.testing.assert_array_equal(distiller(x), model(x))
    np.testing.assert_array_equal(distiller.predict(x, verbose=0), model.predict(x, verbose=0))
    assert distiller.model is model


def test_the_student_comes_to_the_teacher_without_labels():
    model, teacher = classifier(1), classifier()
    distiller = kbp.Distiller(model, teacher, weight=1, temperature=1.0)
    before = [np.copy(w) for w in teacher.get_weights()]
    history = fit(distiller, 30, x_y=(data()[0], None), loss=None)
    assert history["distillation_loss"][-1] < 0.5 * history["distillation_loss"][0]
    assert history["loss"] == history["distillation_loss"]
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_distilled_step_is_the_step_of_the_total_loss():
    x, y = data()
    model, other, teacher = classifier(1), classifier(1), classifier()
    fit(kbp.Distiller(model, teacher, temperature=1.0), batch_size=24)
    # With T = 1, KL and cross-entropy have one gradient: the sum is one with mixed labels.
    labels = 0.5 * np.eye(3)[y] + 0.5 * np.asarray(teacher(x))
    other.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy")
    other.fit(x, labels, batch_size=24, verbose=0, shuffle=False)
    for actual, expected in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_the_teacher_is_no_part_of_the_distiller():
    model, teacher = branched(), classifier()
    distiller = kbp.Distiller(model, teacher)
    fit(distiller)
    theirs = {id(variable) for variable in teacher.variables}
    assert not theirs & {id(variable) for variable in distiller.variables}
    paths = [variable.path for variable in model.trainable_variables]
    assert [variable.path for variable in distiller.trainable_variables] == paths
    # SGD: iterations and learning rate.
    assert len(distiller.optimizer.variables) == 2


def test_regularization_counts_in_full():
    x = inputs = keras.Input((6,))
    x = layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))(x)
    model = keras.Model(inputs, layers.Softmax()(x))
    distiller = kbp.Distiller(model, classifier(), weight=0.75)
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    x, y = data()
    logs = distiller.evaluate(x, y, verbose=0, return_dict=True)
    task, distillation = expected_terms(model, classifier(), x, y)
    added = 0.1 * np.sum(np.square(model.layers[1].get_weights()[0]))
    assert logs["task_loss"] == pytest.approx(task + added, rel=1e-4)
    assert logs["loss"] == pytest.approx(0.25 * task + 0.75 * distillation + added, rel=1e-4)


def test_sample_weights():
    distiller = kbp.Distiller(classifier(1), classifier())
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    x, y = data()
    half = np.repeat([2.0, 0.0], 12)
    weighted = distiller.evaluate(x, y, sample_weight=half, batch_size=24, verbose=0)
    alone = distiller.evaluate(x[:12], y[:12], verbose=0)
    np.testing.assert_allclose(weighted, alone, rtol=1e-4)


def two_headed(seed, names=("label", "size")):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    label = layers.Dense(3, activation="softmax", name="label")(x)
    size = layers.Dense(1, name="size")(x)
    return keras.Model(inputs, {"label": label, "size": size} if names else [label, size])


@pytest.mark.parametrize("as_dict", [True, False])
def test_several_outputs(as_dict):
    names = ("label", "size") if as_dict else None
    model, teacher = two_headed(1, names), two_headed(0, names)
    pack = (lambda a, b: {"label": a, "size": b}) if as_dict else (lambda a, b: [a, b])
    distiller = kbp.Distiller(model, teacher, loss_weights=pack(2.0, 0.5))
    losses = pack("sparse_categorical_crossentropy", "mse")
    distiller.compile("sgd", losses)
    x, y = data()
    weights = pack(np.repeat([1.0, 0.0], 12), np.ones(24))
    logs = distiller.evaluate(
        x, pack(y, x[:, :1]), sample_weight=weights, batch_size=24, verbose=0, return_dict=True
    )
    outputs = [m(x) for m in (teacher, model)]
    (p, a), (q, b) = (
        (np.asarray(o["label" if as_dict else 0]), np.asarray(o["size" if as_dict else 1]))
        for o in outputs
    )
    soft_p, soft_q = (softmax(np.log(z[:12]) / 4) for z in (p, q))
    kl = 16 * np.sum(soft_p * np.log(soft_p / soft_q)) / 24
    expected = 2.0 * kl + 0.5 * np.mean((a - b) ** 2)
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-4)


def test_one_loss_per_output():
    model, teacher = two_headed(1), two_headed(0)
    distiller = kbp.Distiller(model, teacher, loss={"label": "mse", "size": "mae"})
    distiller.compile("sgd", {"label": "sparse_categorical_crossentropy", "size": "mse"})
    x, y = data()
    logs = distiller.evaluate(x, {"label": y, "size": y}, verbose=0, return_dict=True)
    (p, q) = (m(x) for m in (teacher, model))
    expected = np.mean(np.square(p["label"] - q["label"])) + np.mean(np.abs(p["size"] - q["size"]))
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-4)


def test_logits_are_told_from_the_compiled_loss():
    model, teacher = classifier(1, None), classifier(0, None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller = kbp.Distiller(model, teacher, temperature=2.0)
    distiller.compile("sgd", loss)
    x, y = data()
    logs = distiller.evaluate(x, y, verbose=0, return_dict=True)
    p, q = (softmax(np.asarray(m(x)) / 2) for m in (teacher, model))
    expected = 4 * np.mean(np.sum(p * np.log(p / q), axis=-1))
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-4)


# Matching


def expected_mismatch(model, x):
    ratios = []
    for blend in (layer for layer in model.layers if isinstance(layer, AlphaBlend)):
        inner = keras.Model(model.input, blend.input)
        _, o, p = (np.asarray(tensor, "float64") for tensor in inner(x, training=False))
        ratios.append(np.mean((o - p) ** 2) / np.mean(o**2))
    return np.mean(ratios)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
def test_matching_loss(alpha):
    model = branched()
    kbp.set_alpha(model, alpha)
    x, y = data()
    history = kbp.Distiller(model, matching=0.5)
    history.compile("sgd", "sparse_categorical_crossentropy")
    logs = history.evaluate(x, y, verbose=0, return_dict=True)
    expected = expected_mismatch(model, x) if alpha else 0.0
    assert logs["matching_loss"] == pytest.approx(expected, rel=1e-4)
    assert logs["loss"] == logs["task_loss"]


def test_matching_alone_trains_the_pruned_branch():
    model = branched()
    constant = [model.layers[-1], model.get_layer("norm")]
    before = [np.copy(layer.get_weights()[0]) for layer in constant]
    distiller = kbp.Distiller(model, matching=1.0)
    # The original branch is taken as constant, and nothing is asked of what reads the blend.
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        history = fit(distiller, 20, x_y=(data()[0], None), loss=None)
    assert history["matching_loss"][-1] < 0.8 * history["matching_loss"][0]
    assert history["loss"] == history["matching_loss"]
    for layer, weights in zip(constant, before, strict=True):
        np.testing.assert_array_equal(layer.get_weights()[0], weights)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_diverged_original_branch_does_not_matter_at_alpha_zero(jit_compile):
    model = branched()
    gamma, *rest = model.get_layer("norm").get_weights()
    model.get_layer("norm").set_weights([np.full_like(gamma, np.inf), *rest])
    model.get_layer("norm").trainable = False
    kbp.set_alpha(model, 0)
    distiller = kbp.Distiller(model, matching=1.0)
    history = fit(distiller, 1, jit_compile=jit_compile)
    assert history["matching_loss"] == [0.0]
    assert math.isfinite(history["loss"][0])


@pytest.mark.parametrize(
    "options",
    [{}, {"steps_per_execution": 3}, {"jit_compile": True}],
    ids=str,
)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_alpha_falls_to_zero_and_the_merge_is_exact(policy, options):
    with dtype_policy(policy):
        model, teacher = branched(), classifier()
    distiller = kbp.Distiller(model, teacher, matching=0.1)
    history = fit(distiller, 4, batch_size=8, callbacks=[kbp.AlphaStepDecay(0.5)], **options)
    assert history["alpha"] == [1.0, 0.5, 0.0, 0.0]
    assert history["matching_loss"][0] > 0
    assert history["matching_loss"][2:] == [0.0, 0.0]
    assert np.all(np.isfinite(history["loss"]))
    kbp.merge(distiller.model)


# Saving


def test_weights_are_those_of_the_model(tmp_path):
    first = kbp.Distiller(branched(), classifier(), matching=0.5)
    fit(first)
    first.save_weights(tmp_path / "first.weights.h5")
    # Neither another teacher nor other terms hinder.
    second = kbp.Distiller(branched(seed=2), classifier(seed=3))
    fit(second)
    second.load_weights(tmp_path / "first.weights.h5")
    x, _ = data()
    np.testing.assert_array_equal(second(x), first(x))


def test_a_distiller_is_not_saved_as_a_whole(tmp_path):
    distiller = kbp.Distiller(branched(), classifier())
    with pytest.raises(NotImplementedError, match="save `distiller.model`"):
        distiller.save(tmp_path / "distiller.keras")
    distiller.model.save(tmp_path / "model.keras")
    x, _ = data()
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "model.keras")(x), distiller(x)
    )


def test_backup_resumes(tmp_path):
    def train(folder, epochs):
        distiller = kbp.Distiller(branched(), classifier(), matching=0.1)
        distiller.compile(
            keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy"
        )
        backup = kbp.EpochBackup(tmp_path / folder)
        x, y = data()
        done = backup.restore(distiller)
        callbacks = [kbp.AlphaStepDecay(0.25), backup]
        options = {"epochs": epochs, "initial_epoch": done, "shuffle": False, "verbose": 0}
        distiller.fit(x, y, callbacks=callbacks, **options)
        return distiller, backup.history

    expected, rows = train("undisturbed", 4)
    train("interrupted", 2)
    resumed, resumed_rows = train("interrupted", 4)
    assert resumed_rows == rows
    for a, b in zip(resumed.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# Arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 1.5}, "`weight` must be a number in [0, 1]. Received: weight=1.5"),
        ({"weight": -0.1}, "`weight` must be a number in [0, 1]. Received: weight=-0.1"),
        ({"temperature": 0}, "`temperature` must be a positive number. Received"),
        ({"temperature": math.inf}, "`temperature` must be a positive number. Received"),
        ({"matching": -1}, "`matching` must be a number in [0, inf]. Received: matching=-1"),
        ({"loss": 3}, "`loss` must be one of"),
        ({"loss": ["kl", "kl"]}, "`loss` must have one value per output"),
        ({"loss": "binary"}, "`loss` 'binary' must be of outputs that are logits or sigmoid"),
        ({"loss_weights": {"x": 1.0}}, "`loss_weights` must have one value per output"),
        ({"loss_weights": -1.0}, "`loss_weights` must be a number in [0, inf]. Received"),
        ({"model": "vgg16"}, "`model` must be a built functional or Sequential model. Received"),
        ({"teacher": "vgg16"}, "`teacher` must be another Keras model or None. Received"),
        ({"teacher": None}, "`teacher` must be a model if `matching` is 0. Received"),
        ({"model": classifier(), "matching": 1.0}, "must be a branched model for `matching`"),
    ],
    ids=str,
)
def test_wrong_arguments(options, message):
    arguments = {"model": branched(), "teacher": classifier(), **options}
    with pytest.raises(ValueError, match=re.escape(message)):
        kbp.Distiller(**arguments)


def test_outputs_of_other_shape_or_structure():
    inputs = keras.Input((6,))
    wide = keras.Model(inputs, layers.Dense(4)(inputs))
    with pytest.raises(ValueError, match=r"`teacher` must have outputs .*\(None, 3\).* Received:"):
        kbp.Distiller(branched(), wide)
    with pytest.raises(ValueError, match="`teacher` must have outputs"):
        kbp.Distiller(two_headed(0), two_headed(1, None))
    with pytest.raises(ValueError, match="`teacher` must have outputs"):
        kbp.Distiller(two_headed(0), classifier())
