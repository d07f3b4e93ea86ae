"""Names and values of what is served."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import export_cases
from helpers.export_cases import assert_round_trip, cnn
from helpers.saved_models import is_frozen, signature_of, tensors_of
from keras import layers

from keras_branch_prune.exporting import serving
from keras_branch_prune.exporting.saved_model import export_saved_model
from keras_branch_prune.graph.equivalence import draw_inputs, relative_error


def test_dict_outputs_keep_their_keys(tmp_path):
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    sums = {"z": layers.Add()(list(inputs.values())), "file": layers.Dense(2)(inputs["b"])}
    model = keras.Model(inputs, sums)
    signature = signature_of(export_saved_model(model, tmp_path / "saved", verify=False))
    values = draw_inputs(model, 2)
    assert relative_error(model(values), signature(**values)) <= 1e-6


def test_input_names_that_tensorflow_does_not_allow(tmp_path):
    inputs = [keras.Input((4,), name=name) for name in ("my image", "my-image", "2nd")]
    model = keras.Model(inputs, layers.Add(name="the-sum")(inputs))
    signature = signature_of(export_saved_model(model, tmp_path / "saved", verify=False))
    assert set(signature.structured_input_signature[1]) == {"my_image", "my_image_1", "arg_2nd"}
    assert list(signature.structured_outputs) == ["the-sum"]


def test_large_models_are_not_frozen(tmp_path, monkeypatch):
    model = cnn()
    assert serving.fits_as_constants(model)
    monkeypatch.setattr(serving, "_MAX_FROZEN_BYTES", 1)
    path = export_saved_model(model, tmp_path / "saved", verify=False)
    assert not is_frozen(path)


def test_values_that_are_no_variables_are_frozen_too(tmp_path):
    model = export_cases.normalized()
    path = export_saved_model(model, tmp_path / "saved")
    assert is_frozen(path)
    assert_round_trip(model, lambda inputs: signature_of(path)(**tensors_of(inputs)))


def test_lookup_tables_keep_their_content(tmp_path):
    inputs = keras.Input((), dtype="string", name="word")
    model = keras.Model(inputs, layers.StringLookup(vocabulary=["a", "b"], name="id")(inputs))
    path = export_saved_model(model, tmp_path / "saved", verify=False)
    np.testing.assert_array_equal(signature_of(path)(word=tf.constant(["b", "?"]))["id"], [2, 0])
    with pytest.raises(ValueError, match=r"no random values for the input 'word'.*`verify=False`"):
        export_saved_model(model, tmp_path / "saved2")
    assert os.listdir(tmp_path) == ["saved"]
