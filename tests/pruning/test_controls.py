from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.three_classes import RECIPE, TRAIN, VALIDATION

import keras_branch_prune as kbp

SHORT = dataclasses.replace(RECIPE, finetune_epochs=2)


def widths(model):
    return [model.get_layer(name).filters for name in ("conv1", "conv2")]


def test_standard_pruning_narrows_in_equal_factors(original, tmp_path):
    folder = tmp_path / "run"
    options = {"recipe": SHORT, "verbose": 0, "rounds": 2, "width": 0.25}
    result = kbp.standard_prune(original, TRAIN, VALIDATION, output_dir=folder, **options)
    assert widths(kbp.load_model(folder / "round_1.keras")) == [8, 6]
    assert widths(result.model) == [4, 3]
    assert list(result.history) == ["round_1", "round_2"]
    for rows in result.history.values():
        rates = [row["learning_rate"] for row in rows]
        assert rates == [pytest.approx(0.02), pytest.approx(0.01)]
    assert dict(result.plan.target)["saliency"] == "l1"


def test_the_weakest_channels_go(original, tmp_path):
    options = {"recipe": dataclasses.replace(SHORT, finetune_epochs=0), "verbose": 0, "rounds": 1}
    folder = tmp_path / "run"
    result = kbp.standard_prune(original, TRAIN, output_dir=folder, width={"conv2": 0.5}, **options)
    kernel = original.get_layer("conv2").kernel.numpy()
    strongest = np.sort(np.argsort(np.abs(kernel).sum((0, 1, 2)))[-6:])
    kept = result.model.get_layer("conv2").kernel.numpy()
    np.testing.assert_array_equal(kept, kernel[..., strongest])


def test_from_scratch_has_the_same_architecture_and_other_weights(original, tmp_path):
    options = {"output_dir": tmp_path / "run", "recipe": SHORT, "verbose": 0, "width": 0.5}
    result = kbp.train_from_scratch(original, TRAIN, VALIDATION, epochs=4, **options)
    assert widths(result.model) == [8, 6]
    assert len(result.history["scratch"]) == 4
    again = kbp.train_from_scratch(original, TRAIN, VALIDATION, epochs=4, **options)
    np.testing.assert_array_equal(again.model.get_weights()[0], result.model.get_weights()[0])


def test_what_is_random_follows_from_the_seed(original, tmp_path):
    def begun(folder, seed):
        """The weights after an epoch that hardly moves them."""
        recipe = dataclasses.replace(SHORT, learning_rate=1e-12, seed=seed)
        options = {"output_dir": tmp_path / folder, "recipe": recipe, "verbose": 0, "width": 0.5}
        result = kbp.train_from_scratch(original, TRAIN, epochs=1, **options)
        return result.model.get_weights()[0]

    first, second, other = begun("first", 0), begun("second", 0), begun("other", 1)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0.01


@pytest.mark.parametrize("rounds", [0, 1.5, True])
def test_rounds_are_checked(original, tmp_path, rounds):
    with pytest.raises(ValueError, match="`rounds` must be an integer of at least 1"):
        kbp.standard_prune(original, TRAIN, output_dir=tmp_path, rounds=rounds, width=0.5)


def test_epochs_are_checked(original, tmp_path):
    with pytest.raises(
        ValueError, match="`epochs` must be an integer of at least 1. Received: epochs=0"
    ):
        kbp.train_from_scratch(original, TRAIN, output_dir=tmp_path, epochs=0, width=0.5)


def test_the_last_round_has_the_widths_of_the_plan(original, tmp_path):
    recipe = dataclasses.replace(SHORT, finetune_epochs=0)
    options = {"output_dir": tmp_path / "run", "recipe": recipe, "verbose": 0, "width": 0.34375}
    result = kbp.standard_prune(original, TRAIN, rounds=3, **options)
    assert widths(result.model) == [group.width for group in result.plan.groups] == [6, 4]
    rounds = [kbp.load_model(tmp_path / "run" / f"round_{n}.keras") for n in (1, 2)]
    assert [widths(model) for model in rounds] == [[12, 8], [8, 6]]
