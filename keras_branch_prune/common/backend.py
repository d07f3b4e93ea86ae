"""What of a backend of Keras a task needs."""

from __future__ import annotations

import keras


def require_tensorflow(what: str) -> None:
    """Raises `NotImplementedError` unless Keras computes with TensorFlow, for its gradients."""
    if keras.backend.backend() != "tensorflow":
        raise NotImplementedError(
            f"`{what}` needs the TensorFlow backend. Received: {keras.backend.backend()!r}"
        )
