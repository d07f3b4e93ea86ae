from __future__ import annotations

import keras
import pytest

from keras_branch_prune.common.backend import require_tensorflow


def test_tensorflow_will_do():
    require_tensorflow("This test")


def test_another_backend_is_named_with_what_needs_tensorflow(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(NotImplementedError, match=r"^This test needs the TensorFlow .* = 'jax'$"):
        require_tensorflow("This test")
