from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.models import dtype_policy, error_between, randomized

import keras_branch_prune as kbp
from keras_branch_prune.zoo import DCGAN, dcgan_discriminator, dcgan_generator


def generator(**options):
    shape = {"noise": 5, "widths": (4, 4), "image_shape": (4, 4, 1), **options}
    return randomized(dcgan_generator(**shape))


def two_outputs():
    model = generator()
    return keras.Model(model.inputs[0], [model.outputs[0]] * 2)


def image_to_image():
    inputs = keras.Input((4, 4, 1))
    return keras.Model(inputs, keras.layers.Conv2D(1, 1)(inputs))


def discriminator(shape=(4, 4, 1)):
    return randomized(dcgan_discriminator(widths=(4, 4), image_shape=shape), seed=1)


def branched(model):
    return kbp.branch(model, kbp.plan(model, width=0.5))


def compiled(*models, optimizers=(None, None), run_eagerly=False, **options):
    gan = DCGAN(*models, seed=0, **options)
    gan.compile(*optimizers, run_eagerly=run_eagerly, jit_compile=False)
    return gan


def images(count=4):
    return np.random.default_rng(0).uniform(-1, 1, (count, 4, 4, 1)).astype("float32")


def weights(model):
    return [np.array(variable) for variable in model.trainable_variables]


def moved(before, model):
    return [not np.array_equal(a, b) for a, b in zip(before, weights(model), strict=True)]


def test_one_step_trains_both_models_and_logs_their_losses():
    gan = compiled(generator(), discriminator())
    before = weights(gan.generator), weights(gan.discriminator)
    history = gan.fit(images(), batch_size=4, verbose=0).history
    assert history.keys() == {"generator_loss", "discriminator_loss"}
    assert all(moved(before[0], gan.generator))
    assert all(moved(before[1], gan.discriminator))
    assert gan.predict(np.zeros((2, 5), "float32"), verbose=0).shape == (2, 4, 4, 1)


def test_the_losses_are_cross_entropies():
    gan = compiled(generator(), discriminator())
    expected = gan.evaluate(images(), verbose=0, return_dict=True)
    noise = keras.random.normal((4, 5), seed=keras.random.SeedGenerator(0))
    real, fake = gan.discriminator(images()), gan.discriminator(gan.generator(noise))
    entropy = keras.losses.BinaryCrossentropy(from_logits=True)
    ones, zeros = np.ones((4, 1)), np.zeros((4, 1))
    assert expected["generator_loss"] == pytest.approx(float(entropy(ones, fake)), rel=1e-4)
    judged = float(entropy(ones, real) + entropy(zeros, fake))
    assert expected["discriminator_loss"] == pytest.approx(judged, rel=1e-4)


def test_each_model_descends_on_its_own_loss():
    """Each takes one step along the gradient that both had before either took it."""
    rates = {"generator": 0.5, "discriminator": 0.25}
    optimizers = [keras.optimizers.SGD(rate) for rate in rates.values()]
    gan = compiled(generator(), discriminator(), optimizers=optimizers)
    assert gan.optimizer is optimizers[0]
    assert gan.discriminator_optimizer is optimizers[1]
    gan.fit(images(), batch_size=4, verbose=0)
    maker, judge = generator(), discriminator()
    with tf.GradientTape(persistent=True) as tape:
        generated = maker(
            keras.random.normal((4, 5), seed=keras.random.SeedGenerator(0)), training=True
        )
        real, fake = judge(images(), training=True), judge(generated, training=True)
        losses = {
            "generator": tf.reduce_mean(-tf.math.log_sigmoid(fake)),
            "discriminator": -tf.reduce_mean(tf.math.log_sigmoid(real))
            - tf.reduce_mean(tf.math.log_sigmoid(-fake)),
        }
    for model, name in ((maker, "generator"), (judge, "discriminator")):
        variables = [variable.value for variable in model.trainable_variables]
        gradients = tape.gradient(losses[name], variables)
        trained = weights(getattr(gan, name))
        for variable, gradient, actual in zip(variables, gradients, trained, strict=True):
            np.testing.assert_allclose(variable - rates[name] * gradient, actual, atol=1e-5)


def test_a_branched_generator_reaches_alpha_zero_and_merges():
    model = generator()
    gan = compiled(branched(model), discriminator(), teacher=model)
    history = gan.fit(
        images(),
        batch_size=4,
        epochs=5,
        verbose=0,
        callbacks=[kbp.AlphaStepDecay(0.5), kbp.StopAtAlphaZero()],
    ).history
    assert history["alpha"] == [1.0, 0.5]
    assert history.keys() == {"generator_loss", "discriminator_loss", "distillation_loss", "alpha"}
    assert kbp.get_alpha(gan) == kbp.get_alpha(gan.generator) == 0
    gan.fit(images(), batch_size=4, epochs=1, verbose=0)
    compact = kbp.merge(gan.generator)
    assert error_between(gan.generator, compact) < 1e-5
    assert compact.get_layer("project").filters == 2
    assert gan.evaluate(images(), verbose=0)


def test_a_branched_discriminator_reaches_alpha_zero_and_merges():
    gan = compiled(generator(), branched(discriminator()))
    gan.fit(images(), epochs=2, verbose=0, callbacks=[kbp.AlphaStepDecay(0.5)])
    assert error_between(gan.discriminator, kbp.merge(gan.discriminator)) < 1e-5


def test_only_one_of_them_may_be_branched():
    gan = compiled(branched(generator()), branched(discriminator()))
    with pytest.raises(ValueError, match="exactly one `Alpha` layer"):
        gan.fit(images(), verbose=0, callbacks=[kbp.AlphaStepDecay(0.5)])


def test_distillation_compares_the_images_of_the_same_noise():
    model, teacher = generator(), randomized(generator(), seed=3)
    gan = compiled(model, discriminator(), teacher=teacher)
    logged = gan.evaluate(images(), verbose=0, return_dict=True)["distillation_loss"]
    noise = keras.random.normal((4, 5), seed=keras.random.SeedGenerator(0))
    assert logged == pytest.approx(float(np.mean(np.abs(teacher(noise) - model(noise)))), rel=1e-4)
    same = compiled(model, discriminator(), teacher=keras.models.clone_model(model))
    same._call_teacher.func.set_weights(model.get_weights())
    assert same.evaluate(images(), verbose=0, return_dict=True)["distillation_loss"] == 0


def test_distillation_moves_the_generator_to_the_teacher_which_stays():
    teacher = randomized(generator(), seed=3)
    before = weights(teacher)
    optimizers = keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.0)
    options = {"teacher": teacher, "optimizers": optimizers}
    gan = compiled(generator(), discriminator(), distillation=100.0, **options)
    history = gan.fit(images(16), epochs=20, batch_size=8, verbose=0).history["distillation_loss"]
    assert history[-1] < 0.7 * history[0]
    assert not any(moved(before, teacher))
    owned = {id(variable) for variable in gan.variables}
    assert not any(id(variable) in owned for variable in teacher.variables)


@pytest.mark.parametrize("part", ["generator", "discriminator"])
def test_regularization_is_trained_on_but_not_logged(part):
    models = {"generator": generator(), "discriminator": discriminator()}
    first = next(layer for layer in models[part].layers if layer.weights)
    first.kernel_regularizer = first.kernel.regularizer = keras.regularizers.L2(10.0)
    before = np.abs(np.array(first.kernel)).sum()
    optimizers = keras.optimizers.SGD(0.01), keras.optimizers.SGD(0.01)
    gan = compiled(models["generator"], models["discriminator"], optimizers=optimizers)
    history = gan.fit(images(), epochs=2, verbose=0).history
    assert np.abs(np.array(first.kernel)).sum() < 0.9 * before
    assert max(history["generator_loss"] + history["discriminator_loss"]) < 10


def test_labels_are_passed_over_and_the_seed_repeats_the_noise():
    histories = []
    for _ in range(2):
        gan = compiled(generator(), discriminator())
        history = gan.fit(images(), np.arange(4), epochs=2, batch_size=4, verbose=0).history
        histories.append(history)
    assert histories[0] == histories[1]


def test_callbacks_that_copy_the_state_work():
    gan = compiled(branched(generator()), discriminator())
    guard = kbp.StopOnNonFinite()
    gan.fit(images(), epochs=2, verbose=0, callbacks=[kbp.AlphaStepDecay(0.5), guard])
    assert guard.stopped_epoch is None
    for model, name in (
        (gan.generator, "optimizer"),
        (gan.discriminator, "discriminator_optimizer"),
    ):
        moments = len(getattr(gan, name).variables) - 2
        assert moments == 2 * len(model.trainable_variables)


def states(gan):
    optimizers = gan.optimizer.variables + gan.discriminator_optimizer.variables
    return [np.array(variable) for variable in gan.variables + optimizers]


def test_a_gan_that_diverges_stops_in_the_last_good_state():
    class Explode(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.before = states(self.model)
                head = self.model.discriminator.get_layer("logit").kernel
                head.assign(np.full(head.shape, np.inf))

    gan, explode, guard = compiled(generator(), discriminator()), Explode(), kbp.StopOnNonFinite()
    message = r"epoch 2: its loss \(discriminator_loss nan, generator_loss nan\)"
    with pytest.warns(UserWarning, match=message):
        gan.fit(images(12), batch_size=4, epochs=3, verbose=0, callbacks=[explode, guard])
    assert guard.stopped_epoch == 1
    for actual, expected in zip(states(gan), explode.before, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_batch_norm_is_reestimated_with_noise_in_the_generator_only():
    gan = compiled(branched(generator()), discriminator())
    noise = np.random.default_rng(0).normal(size=(12, 5)).astype("float32")
    gan.fit(images(), epochs=1, verbose=0)
    kbp.set_alpha(gan, 0.5)
    training = gan(noise, training=True)
    judge = [np.array(weight) for weight in gan.discriminator.weights]
    assert np.abs(gan(noise) - training).max() > 1e-3
    kbp.reestimate_batch_norm(gan, noise)
    np.testing.assert_allclose(gan(noise), training, atol=1e-5)
    for before, after in zip(judge, gan.discriminator.weights, strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_backup_resumes_with_both_optimizers(tmp_path):
    gan = compiled(branched(generator()), discriminator())
    backup = kbp.EpochBackup(tmp_path / "backup")
    gan.fit(images(), epochs=1, verbose=0, callbacks=[kbp.AlphaStepDecay(0.25), backup])
    resumed = compiled(branched(generator()), discriminator())
    assert kbp.EpochBackup(tmp_path / "backup").restore(resumed) == 1
    assert kbp.get_alpha(resumed) == 0.75
    for name in ("optimizer", "discriminator_optimizer"):
        pairs = zip(getattr(gan, name).variables, getattr(resumed, name).variables, strict=True)
        assert all(np.array_equal(np.array(a), np.array(b)) for a, b in pairs)
        assert int(getattr(resumed, name).iterations) == 1


def test_losses_are_scaled_in_half_precision():
    with dtype_policy("mixed_float16"):
        gan = compiled(generator(), discriminator())
    before = weights(gan.generator), weights(gan.discriminator)
    gan.fit(images(), epochs=1, verbose=0)
    for optimizer in (gan.optimizer, gan.discriminator_optimizer):
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert all(moved(before[0], gan.generator))
    assert all(moved(before[1], gan.discriminator))


def test_a_gan_is_not_saved_as_a_whole():
    with pytest.raises(NotImplementedError, match="save `gan.generator`"):
        DCGAN(generator(), discriminator()).get_config()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((None, discriminator), {}, "`generator` must be a built functional or Sequential model"),
        ((two_outputs, discriminator), {}, "`generator` must be a built functional or Sequential"),
        ((discriminator, discriminator), {}, "`generator` must go from (batch, noise)"),
        ((image_to_image, discriminator), {}, "`generator` must go from (batch, noise)"),
        ((generator, generator), {}, "`discriminator` must go from the generator's images"),
        (
            (generator, lambda: discriminator((8, 8, 1))),
            {},
            "the generator's images (None, 4, 4, 1) to logits (None, 1)",
        ),
        ((generator, discriminator), {"teacher": discriminator}, "`teacher` must be another model"),
        (
            (generator, discriminator),
            {"teacher": lambda: generator(noise=6)},
            "from (None, 5) to (None, 4, 4, 1)",
        ),
    ],
)
def test_bad_models(arguments, options, message):
    built = [build and build() for build in arguments]
    with pytest.raises(ValueError, match=re.escape(message)):
        DCGAN(*built, **{name: build() for name, build in options.items()})


def test_bad_arguments():
    model = generator()
    with pytest.raises(ValueError, match="Received: the generator itself"):
        DCGAN(model, discriminator(), teacher=model)
    with pytest.raises(ValueError, match="`distillation` must be a number"):
        DCGAN(model, discriminator(), teacher=generator(), distillation=-1)
    optimizer = keras.optimizers.Adam()
    with pytest.raises(ValueError, match="`discriminator_optimizer` must be another optimizer"):
        DCGAN(model, discriminator()).compile(optimizer, optimizer)
