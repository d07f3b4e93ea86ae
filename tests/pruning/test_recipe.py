"""What a recipe must be."""

from __future__ import annotations

import pytest

import keras_branch_prune as kbp


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"blend_epochs": 0},
            "must be an integer of at least 1. Received: blend_epochs=0",
        ),
        (
            {"finetune_epochs": True},
            "must be an integer .* Received: finetune_epochs=True",
        ),
        (
            {"batch_size": 1.5},
            "must be an integer of at least 1. Received: batch_size=1.5",
        ),
        (
            {"learning_rate": 0},
            "must be a positive number. Received: learning_rate=0",
        ),
        ({"blend_learning_rate": float("nan")}, "`blend_learning_rate` must .* Received: .*nan"),
        (
            {"temperature": None},
            "must be a positive number. Received: temperature=None",
        ),
        ({"distillation": 1.5}, r"`distillation` must be a number in \[0, 1\]"),
        ({"matching": -1}, r"`matching` must be a number in \[0, inf\]"),
    ],
)
def test_a_recipe_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        kbp.Recipe(**options)
