"""A branched model trains to α = 0 in every setting of Keras, traced once, and merges exactly."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import dtype_policy, error_between
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.graph.equivalence import TOLERANCES

SAMPLES, BATCH = 24, 8


class CountedLoss(keras.losses.Loss):
    """Mean squared error; counts how often Python runs it, i.e. how often a step is traced."""

    def __init__(self):
        super().__init__(name="counted")
        self.calls = 0

    def call(self, y_true, y_pred):
        self.calls += 1
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


def make_model(heads=1):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv1")(x)
    x = layers.BatchNormalization(name="norm1")(x)
    x = layers.MaxPooling2D(name="pool1")(layers.ReLU(name="relu1")(x))
    x = layers.GlobalAveragePooling2D(name="average")(x)
    outputs = [layers.Dense(2, name=f"head{n}", dtype="float32")(x) for n in range(heads)]
    outputs = {f"head{n}": output for n, output in enumerate(outputs)}
    return keras.Model(inputs, outputs if heads > 1 else outputs["head0"])


def branched(**options):
    model = make_model(**options)
    return kbp.branch(model, kbp.plan(model, width=0.5))


def data(heads=1):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, 8, 8, 3)).astype("float32")
    y = [rng.normal(size=(SAMPLES, 2)).astype("float32") for _ in range(heads)]
    return x, {f"head{n}": part for n, part in enumerate(y)} if heads > 1 else y[0]


def check(model, history, dtype="float32"):
    """At α = 0, after training, `merge` equals the model."""
    assert history["alpha"] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert np.all(np.isfinite(history["loss"]))
    assert error_between(model, kbp.merge(model)) <= TOLERANCES[dtype]


def fit(model, *args, **options):
    callbacks = [kbp.AlphaStepDecay(0.25)]
    options = {"epochs": 6, "verbose": 0, "callbacks": callbacks, **options}
    return model.fit(*args, **options).history


def dataset():
    return tf.data.Dataset.from_tensor_slices(data()).batch(BATCH)


FEEDS = {
    "arrays": lambda: (data(), {"batch_size": BATCH}),
    "sample_weights": lambda: (
        (*data(),),
        {"batch_size": BATCH, "sample_weight": np.linspace(0, 1, SAMPLES)},
    ),
    "validation_split": lambda: (data(), {"batch_size": BATCH, "validation_split": 1 / 3}),
    # Keras warns that it does not shuffle a data set, unless told not to.
    "dataset": lambda: ((dataset(),), {"shuffle": False}),
    "repeated_dataset": lambda: (
        (dataset().repeat(),),
        {"steps_per_epoch": 3, "shuffle": False},
    ),
}


@pytest.mark.parametrize("feed", FEEDS)
def test_data(feed):
    model, loss = branched(), CountedLoss()
    args, options = FEEDS[feed]()
    model.compile(keras.optimizers.SGD(0.05), loss)
    # The first epoch traces all that there is to trace: also for validation.
    fit(model, *args, **{**options, "epochs": 1, "callbacks": []})
    traced = loss.calls
    check(model, fit(model, *args, **options))
    assert loss.calls == traced


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("float32", {}),
        ("float32", {"steps_per_execution": 3}),
        ("float32", {"jit_compile": True}),
        ("mixed_bfloat16", {}),
        ("mixed_bfloat16", {"steps_per_execution": 3, "jit_compile": True}),
    ],
    ids=str,
)
def test_compilation(policy, options):
    with dtype_policy(policy):
        model, loss = branched(), CountedLoss()
    model.compile(keras.optimizers.SGD(0.05), loss, **options)
    history = fit(model, *data(), batch_size=BATCH)
    assert loss.calls == 1
    check(model, history, "bfloat16" if "16" in policy else "float32")


def test_several_losses():
    model, loss = branched(heads=2), CountedLoss()
    model.compile("sgd", {"head0": loss, "head1": "mae"}, {"head0": 1.0, "head1": 0.5})
    fit(model, *data(heads=2), batch_size=BATCH, epochs=1, callbacks=[])
    traced = loss.calls
    history = fit(model, *data(heads=2), batch_size=BATCH)
    assert loss.calls == traced
    check(model, history)
    assert {"head0_loss", "head1_loss"} <= set(history)


def test_stochastic_alpha():
    original, loss = make_model(), CountedLoss()
    model = kbp.branch(original, kbp.plan(original, width=0.5), stochastic=True, seed=0)
    model.compile(keras.optimizers.SGD(0.05), loss, jit_compile=True)
    history = fit(model, *data(), batch_size=BATCH)
    assert loss.calls == 1
    check(model, history)


def test_frozen_original():
    original = make_model()
    model = kbp.branch(original, kbp.plan(original, width=0.5), train_original=False)
    model.compile(keras.optimizers.SGD(0.05), "mse")
    kernel = np.copy(model.get_layer("conv1").get_weights()[0])
    check(model, fit(model, *data(), batch_size=BATCH))
    np.testing.assert_array_equal(model.get_layer("conv1").get_weights()[0], kernel)


class Noisy(keras.Model):
    """A user's model around another one, with a training step of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.traces = 0

    def call(self, inputs, training=False):
        return self.inner(inputs, training=training)

    def train_step(self, data):
        self.traces += 1
        x, y = data
        with tf.GradientTape() as tape:
            outputs = self(x + tf.random.normal(tf.shape(x), stddev=0.01), training=True)
            loss = self.compute_loss(x, y, outputs)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self._loss_tracker.update_state(loss)
        return self.compute_metrics(x, y, outputs)


def test_own_training_step():
    model = Noisy(branched())
    model.compile(keras.optimizers.SGD(0.05), "mse")
    history = fit(model, *data(), batch_size=BATCH)
    assert model.traces == 1
    check(model.inner, history)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_own_training_loop(jit_compile):
    model = branched()
    optimizer = kbp.ScaledRates(keras.optimizers.SGD(0.05), original=0.1)
    optimizer.build(model.trainable_variables)
    schedule = kbp.StepDecay(0.25)

    @tf.function(jit_compile=jit_compile)
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    x, y = map(tf.constant, data())
    losses = []
    for epoch in range(6):
        kbp.set_alpha(model, schedule(epoch))
        losses.append(float(step(x, y)))
    assert step.experimental_get_tracing_count() == 1
    assert np.all(np.isfinite(losses))
    assert error_between(model, kbp.merge(model)) <= TOLERANCES["float32"]


def test_alpha_acts_in_a_traced_step():
    model = branched()
    layer = model.get_layer("norm1__pruned")
    layer.set_weights([2 * weight for weight in layer.get_weights()])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x, y = data()
    losses = []
    for alpha in (1.0, 0.5, 0.0, 1.0):
        kbp.set_alpha(model, alpha)
        losses.append(model.train_on_batch(x, y))
    assert len(set(losses[:3])) == 3
    assert losses[3] == losses[0]
