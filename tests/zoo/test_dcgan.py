from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from helpers.models import error_between, perturb_maps, randomized

import keras_branch_prune as kbp
from keras_branch_prune.zoo import ModelType, dcgan_discriminator, dcgan_generator


def generator():
    return randomized(dcgan_generator(noise=5, widths=(8, 6, 4), image_shape=(8, 12, 3)))


def discriminator():
    return randomized(dcgan_discriminator(widths=(4, 6), image_shape=(8, 12, 3)))


def test_the_generator_makes_small_images_from_noise():
    model = ModelType.DCGAN_GENERATOR.build()
    assert model.input_shape == (None, 100)
    assert model.output_shape == (None, 28, 28, 1)
    assert model.get_layer("project").output.shape == (None, 7, 7, 256)
    assert model.get_layer("up1").output.shape == (None, 7, 7, 128)
    assert model.get_layer("up2").output.shape == (None, 14, 14, 64)
    assert model.count_params() == 2_281_793
    image = keras.ops.convert_to_numpy(generator()(1000 * np.ones((2, 5), "float32")))
    assert image.shape == (2, 8, 12, 3)
    assert -1 <= image.min() < 0 < image.max() <= 1


def test_the_projection_is_a_dense_layer():
    model = generator()
    noise = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    projected = keras.Model(model.inputs[0], model.get_layer("project").output)(noise)
    kernel = model.get_layer("project").get_weights()[0]
    assert kernel.shape == (2, 3, 8, 5)
    np.testing.assert_allclose(projected, np.einsum("hwcn,bn->bhwc", kernel, noise), atol=1e-5)


def test_the_discriminator_gives_a_logit():
    model = ModelType.DCGAN_DISCRIMINATOR.build()
    assert model.input_shape == (None, 28, 28, 1)
    assert model.output_shape == (None, 1)
    assert model.get_layer("conv2").output.shape == (None, 7, 7, 128)
    assert model.count_params() == 213_249
    normalized = [layer.name for layer in model.layers if layer.name.startswith("bn")]
    assert normalized == ["bn2"]
    assert model.get_layer("relu1").negative_slope == pytest.approx(0.2)


@pytest.mark.parametrize("build", [generator, discriminator])
def test_all_but_the_output_can_be_pruned_and_merged_exactly(build):
    model = build()
    prunable = {group.name for group in kbp.explain(model).groups if group.prunable}
    assert (
        prunable == {generator: {"project", "up1", "up2"}, discriminator: {"conv1", "conv2"}}[build]
    )
    branched = kbp.branch(model, kbp.plan(model, width=0.5))
    perturb_maps(branched)
    assert error_between(model, branched) == 0
    kbp.set_alpha(branched, 0)
    compact = kbp.merge(branched)
    assert error_between(branched, compact) < 1e-5
    assert error_between(model, compact) > 1e-3
    assert compact.output_shape == model.output_shape
    assert compact.count_params() < 0.6 * model.count_params()


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (dcgan_generator, {"noise": 0}, "`noise` must be an integer of at least 1"),
        (dcgan_generator, {"widths": (8,)}, "`widths` must be a sequence of at least 2"),
        (dcgan_generator, {"image_shape": (28, 30, 1)}, "multiples of 4"),
        (dcgan_discriminator, {"widths": ()}, "`widths` must be a sequence of at least 1"),
        (dcgan_discriminator, {"image_shape": (28, 28)}, "`image_shape` must be (height, width"),
    ],
)
def test_bad_arguments(build, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(**options)
