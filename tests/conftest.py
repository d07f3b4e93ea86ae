"""What holds for every test: threads, the seed, and the settings of Keras."""

from __future__ import annotations

import os

# Before TensorFlow is imported: each worker of pytest-xdist has a core, and no more.
for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_name, "1")

import keras  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def same_start():
    """Every test begins with the same seed and ends with the policies that it found."""
    keras.utils.set_random_seed(0)
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_floatx(floatx)
