"""What the package offers."""

from __future__ import annotations

import keras_branch_prune


def test_every_public_name_exists():
    assert sorted(set(keras_branch_prune.__all__)) == sorted(keras_branch_prune.__all__)
    assert all(hasattr(keras_branch_prune, name) for name in keras_branch_prune.__all__)
