from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_branch_prune.zoo import reconstruction_loss


def images(seed, dtype="float32"):
    return np.random.default_rng(seed).uniform(size=(3, 16, 12, 3)).astype(dtype)


def test_the_loss_is_l1_and_structural_similarity():
    truth, image = images(0), images(1)
    similarity = tf.image.ssim(tf.constant(truth), tf.constant(image), max_val=1.0).numpy()
    expected = np.abs(truth - image).mean(axis=(1, 2, 3)) + 1 - similarity
    loss = reconstruction_loss(truth, image)
    assert loss.shape == (3,)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_equal_images_cost_nothing():
    np.testing.assert_allclose(reconstruction_loss(images(0), images(0)), 0, atol=1e-6)


def test_opposite_images_cost_most():
    black = np.zeros((1, 16, 16, 3), "float32")
    np.testing.assert_allclose(reconstruction_loss(black, 1 - black), 2, atol=1e-3)


def test_half_precision_is_widened():
    loss = reconstruction_loss(images(0, "float16"), images(1, "float16"))
    assert loss.dtype == "float32"
    np.testing.assert_allclose(loss, reconstruction_loss(images(0), images(1)), atol=2e-3)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_it_is_a_loss_of_compile_that_is_saved_with_the_model(tmp_path, jit_compile):
    inputs = keras.Input((16, 12, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 1, activation="sigmoid")(inputs))
    model.compile("sgd", reconstruction_loss, jit_compile=jit_compile)
    history = model.fit(images(0), images(0), verbose=0).history
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loss = loaded.evaluate(images(0), images(0), verbose=0)
    assert loss == pytest.approx(model.evaluate(images(0), images(0), verbose=0))
    assert loss < history["loss"][0]
