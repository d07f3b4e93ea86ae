"""What reconstructed images are judged by."""

from __future__ import annotations

import image_quality
import keras
import numpy as np
import pytest

import keras_branch_prune as kbp


def test_psnr_and_ssim_are_per_image():
    image = np.random.default_rng(0).uniform(0.2, 0.8, (2, 16, 16, 3)).astype("float32")
    other = image + np.array([0.1, 0.01], "float32")[:, None, None, None]
    assert np.asarray(image_quality.psnr(image, other)) == pytest.approx([20, 40], abs=0.01)
    similarity = np.asarray(image_quality.ssim(image, other))
    assert similarity.shape == (2,)
    assert 0.8 < similarity[0] < similarity[1] < 1
    assert np.asarray(image_quality.ssim(image, image)) == pytest.approx([1, 1])


def test_an_autoencoder_is_compiled_with_its_loss():
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, keras.layers.Rescaling(0.5)(inputs))
    image_quality.compile_autoencoder(model, 0.25)
    assert float(model.optimizer.learning_rate) == 0.25
    x = np.random.default_rng(0).random((2, 16, 16, 3), "float32")
    found = model.evaluate(x, x, verbose=0, return_dict=True)
    assert set(found) == {"loss", "psnr", "ssim", "mae"}
    expected = np.mean(kbp.zoo.reconstruction_loss(x, 0.5 * x))
    assert found["loss"] == pytest.approx(expected, rel=1e-4)
    assert found["mae"] == pytest.approx(0.5 * x.mean(), rel=1e-4)
    assert found["loss"] == pytest.approx(found["mae"] + 1 - found["ssim"], rel=1e-4)
