from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.exporting import verification as verify
from keras_branch_prune.graph.equivalence import (
    check_equivalent,
    compute_in_float64,
    draw_inputs,
    relative_error,
)

LARGE = 1e4


def cancelling(minus=-1.0):
    """Returns −x by way of numbers so large that float32 rounds their difference."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, layers.Dense(1)(layers.Dense(2)(inputs)))
    pair = np.array([[LARGE, LARGE + 1]]), np.zeros(2)
    model.set_weights([*pair, np.array([[1.0], [minus]]), np.zeros(1)])
    return model


def scaling(by):
    inputs = keras.Input((1,))
    model = keras.Model(inputs, layers.Dense(1, use_bias=False)(inputs))
    model.set_weights([np.array([[by]])])
    return model


class Float32Only(layers.Layer):
    def call(self, inputs):
        if keras.backend.standardize_dtype(inputs.dtype) != "float32":
            raise TypeError("float32 only")
        return inputs


def test_what_float32_rounds_is_compared_in_float64():
    inputs = np.array([[0.123456], [1.7]], np.float32)
    rounded = np.abs(cancelling()(inputs) + inputs).max()
    assert rounded > 1e-4
    assert check_equivalent(cancelling(), scaling(-1.0)) < 1e-9


@pytest.mark.parametrize(("expected", "actual"), [(cancelling(), -1.001), (scaling(1.0), np.nan)])
def test_what_differs_is_refused(expected, actual):
    with pytest.raises(ValueError, match=r"outputs that differ by .* \(allowed: 1e-04\)"):
        check_equivalent(expected, scaling(actual))


def test_the_models_stay_as_they_are():
    model = cancelling()
    weights = model.get_weights()
    check_equivalent(model, scaling(-1.0))
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_without_float64_the_first_comparison_decides():
    inputs = keras.Input((1,))
    model = keras.Model(inputs, cancelling()(Float32Only()(inputs)))
    with pytest.raises(ValueError, match="outputs that differ"):
        check_equivalent(model, scaling(-1.0))


def test_an_export_may_differ_by_what_the_model_itself_rounds(tmp_path, monkeypatch):
    model = cancelling()
    exact = np.asarray(compute_in_float64(model, np.ones((1, 1), np.float32)))
    assert exact == -1
    cases = [draw_inputs(model, batch, seed=batch).numpy() for batch in (1, 3)]
    assert all(relative_error(-case, model(case)) > 1e-5 for case in cases)

    def run(share):
        """Exports a model of which the outputs are off by a share of the largest."""
        off = [[model(x).numpy() + share * np.abs(x).max()] for x in cases]
        monkeypatch.setattr(verify, "_reload_and_run", lambda *_: off)
        return kbp.export_saved_model(model, tmp_path / "model")

    run(2e-5)
    with pytest.raises(kbp.ExportError, match="allowed 0.001"):
        run(2e-3)
    monkeypatch.setattr(verify, "compute_in_float64", lambda *_: None)
    with pytest.raises(kbp.ExportError, match="allowed 1e-05"):
        run(2e-5)
