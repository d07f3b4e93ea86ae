"""Models that version 0.1.0 saved load, compute the same, and go on (see tests/data)."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_branch_prune as kbp

SAVED = Path(__file__).parents[1] / "data" / "saved_by_0_1"


@pytest.fixture(scope="module")
def expected():
    return np.load(SAVED / "expected.npz")


@pytest.mark.parametrize("load", [kbp.load_model, keras.models.load_model])
@pytest.mark.parametrize("name", ["branched", "compact"])
def test_a_saved_model_computes_what_it_did(load, name, expected):
    model = load(SAVED / f"{name}.keras")
    outputs = model(expected["images"], training=False)
    np.testing.assert_allclose(outputs, expected[name], rtol=0, atol=1e-5)


def test_a_branched_model_goes_on_where_it_was(expected):
    branched = kbp.load_model(SAVED / "branched.keras")
    images = expected["images"]
    assert kbp.get_alpha(branched) == pytest.approx(0.6)
    assert isinstance(branched.optimizer, kbp.ScaledRates)
    assert branched.optimizer.iterations == 1
    branched.fit(images, images, epochs=1, verbose=0)
    assert branched.optimizer.iterations == 2


def test_the_merge_of_a_saved_branched_model_is_the_saved_compact_one(expected):
    branched = kbp.load_model(SAVED / "branched.keras")
    kbp.set_alpha(branched, 0)
    outputs = kbp.merge(branched)(expected["images"], training=False)
    np.testing.assert_allclose(outputs, expected["compact"], rtol=0, atol=1e-5)
