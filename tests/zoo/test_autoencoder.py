from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from helpers.models import error_between, perturb_maps, randomized

import keras_branch_prune as kbp
from keras_branch_prune.zoo import ModelType, rgb_autoencoder

SKIPS = pytest.mark.parametrize("skips", [False, True], ids=["plain", "skips"])


def small(skips):
    return randomized(
        rgb_autoencoder(widths=(6, 8, 8), input_shape=(16, 16, 3), skips=skips, name="small")
    )


@pytest.mark.parametrize(
    ("skips", "parameters"), [(False, 705_216 + 852_483), (True, 705_216 + 852_483 + 331_776)]
)
def test_the_blocks_are_those_of_the_description(skips, parameters):
    model = ModelType.RGB_AUTOENCODER.build(skips=skips)
    assert model.output_shape == model.input_shape == (None, 128, 128, 3)
    assert model.count_params() == parameters
    encoder, decoder = model.get_layer("encoder"), model.get_layer("decoder")
    assert encoder.outputs[-1].shape == (None, 16, 16, 128)
    assert len(encoder.outputs) == (4 if skips else 1)
    assert [filters(encoder, f"block{block}") for block in (1, 2, 3)] == [
        [64, 64],
        [128, 128],
        [128, 128, 128],
    ]
    assert [filters(decoder, f"block{block}") for block in (3, 2, 1)] == [
        [128, 128, 128, 128],
        [128, 128, 64],
        [64, 64],
    ]
    assert decoder.layers[-1].filters == 3


def filters(model, prefix):
    found = (layer for layer in model.layers if layer.name.startswith(prefix))
    return [layer.filters for layer in found if hasattr(layer, "filters")]


def test_what_comes_out_is_an_image():
    x = 50 * np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    image = keras.ops.convert_to_numpy(small(skips=True)(x))
    assert image.min() >= 0
    assert image.max() <= 1


@SKIPS
def test_the_skips_are_the_blocks_before_pooling(skips):
    model = rgb_autoencoder(widths=(4,), input_shape=(8, 6, 3), skips=skips)
    shapes = [tensor.shape for tensor in model.get_layer("encoder").outputs]
    assert shapes == [(None, 8, 6, 4)] * skips + [(None, 4, 3, 4)]
    assert model.get_layer("decoder").get_layer("block1_conv1").kernel.shape[2] == 4 * (1 + skips)


@SKIPS
def test_pruning_the_encoder_narrows_the_bottleneck_to_44_channels(skips):
    model = rgb_autoencoder(input_shape=(16, 16, 3), skips=skips)
    plan = kbp.plan(model, width=0.34375, scope="encoder")
    assert {group.name.split("__")[0] for group in plan.groups} == {"encoder"}
    assert [group.width for group in plan.groups] == [22] * 2 + [44] * 5
    compact = kbp.select(model, plan)
    assert compact.get_layer("encoder__block3_pool").output.shape == (None, 2, 2, 44)
    assert compact.get_layer("decoder__block3_up").filters == 128


@SKIPS
def test_everything_but_the_image_can_be_pruned(skips):
    groups = kbp.explain(small(skips)).groups
    assert [group.channels for group in groups if not group.prunable] == [3]
    assert len(groups) == 7 + 3 + 6 + 1


@SKIPS
def test_at_alpha_one_the_branched_model_is_the_model(skips):
    model = small(skips)
    branched = kbp.branch(model, kbp.plan(model, width=0.5))
    perturb_maps(branched)
    assert error_between(model, branched) == 0


@SKIPS
@pytest.mark.parametrize("scope", ["encoder", "decoder", ["encoder", "decoder"]], ids=str)
def test_merge_is_the_branched_model_at_alpha_zero(skips, scope):
    model = small(skips)
    plan = kbp.plan(model, width=0.5, scope=scope)
    assert len(plan.groups) == {"encoder": 7, "decoder": 9}.get(str(scope), 16)
    branched = kbp.branch(model, plan)
    perturb_maps(branched)
    kbp.set_alpha(branched, 0)
    compact = kbp.merge(branched)
    assert error_between(branched, compact) < 1e-5
    assert error_between(model, compact) > 1e-3
    assert compact.output_shape == (None, 16, 16, 3)
    assert compact.count_params() < model.count_params()


def test_a_pruned_model_is_pruned_further_by_the_same_scope():
    model = small(skips=True)
    compact = kbp.select(model, kbp.plan(model, width=0.5, scope="encoder"))
    again = kbp.plan(compact, width=0.5, scope="encoder")
    assert [group.channels for group in again.groups] == [3, 3, 4, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": ()}, "`widths` must be a sequence of at least 1 integers. Received: ()"),
        ({"widths": 64}, "`widths` must be a sequence"),
        ({"widths": (8, 0)}, "`widths` must be an integer of at least 1"),
        ({"input_shape": (8, 8)}, "`input_shape` must be (height, width, channels)"),
        ({"input_shape": (8, 8, 0)}, "`input_shape` must be an integer of at least 1"),
        ({"input_shape": (16, 12, 3)}, "multiples of 8"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rgb_autoencoder(**options)
