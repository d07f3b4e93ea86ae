"""Checks of the backend that Keras runs on."""

from __future__ import annotations

import keras


def require_tensorflow(what: str) -> None:
    """Raises `NotImplementedError`, a `RuntimeError`, unless Keras runs on TensorFlow.

    Args:
        what: What needs it; the message begins with it, as in "`calibration` needs …".
    """
    if keras.backend.backend() != "tensorflow":
        raise NotImplementedError(
            f"{what} needs the TensorFlow backend of Keras. "
            f"Received: keras.backend.backend() = '{keras.backend.backend()}'"
        )
