from __future__ import annotations

import sys

import numpy as np
import pytest
from matplotlib import image

import keras_branch_prune as kbp

STAGES = {
    "original": [{"accuracy": 0.5, "val_accuracy": 0.4}, {"accuracy": 0.9, "val_accuracy": 0.8}],
    "branched": [{"accuracy": 0.9, "val_accuracy": 0.8, "alpha": a} for a in (1.0, 0.5, 0.5)],
    "compact": [{"accuracy": 0.9}],
}


def colours(path):
    """The colours that fill more than 2 % of the picture, white apart."""
    pixels = (image.imread(path)[..., :3] * 255).astype(int).reshape(-1, 3)
    found, counts = np.unique(pixels, axis=0, return_counts=True)
    large = found[counts > 0.02 * len(pixels)]
    return {tuple(map(int, colour)) for colour in large} - {(255, 255, 255)}


def test_every_alpha_has_a_colour_of_its_own(tmp_path):
    path = kbp.plot_training(STAGES, tmp_path / "training.png")
    assert len(colours(path)) == 2
    unbranched = {name: STAGES[name] for name in ("original", "compact")}
    assert colours(kbp.plot_training(unbranched, tmp_path / "plain.png")) == set()


def filled(path, colour):
    """How many pixels have a colour."""
    pixels = (image.imread(path)[..., :3] * 255).astype(int)
    return (pixels == colour).all(axis=-1).sum()


def sensitivities(*values, whole=None):
    groups = [kbp.GroupSensitivity(f"g{i}", 8, (2, 4), v) for i, v in enumerate(values)]
    return kbp.Sensitivity("model", (0.25, 0.5), tuple(groups), whole)


def test_errors_are_coloured_by_their_logarithm(tmp_path):
    result = sensitivities((1.0, 0.1), (0.01, 0.0))
    found = colours(kbp.plot_sensitivity(result, tmp_path / "errors.png"))
    dark, middle, bright = (68, 1, 84), (32, 144, 140), (253, 231, 36)
    assert {dark, bright} <= found
    assert any(max(abs(a - b) for a, b in zip(c, middle, strict=True)) < 4 for c in found)
    # No error looks like the smallest one there is.
    alike = kbp.plot_sensitivity(sensitivities((1.0, 0.1), (0.01, 0.01)), tmp_path / "alike.png")
    assert filled(tmp_path / "errors.png", dark) == pytest.approx(filled(alike, dark), rel=0.05)
    metrics = sensitivities((1.0, 0.1), (0.01, 0.0), whole=1.0)
    assert len(colours(kbp.plot_sensitivity(metrics, tmp_path / "metrics.png"))) == 4


def test_nothing_to_suffer_from_can_be_drawn(tmp_path):
    assert kbp.plot_sensitivity(sensitivities((0.0, 0.0)), tmp_path / "none.svg").exists()
    assert kbp.plot_sensitivity(sensitivities((0.5, 0.5)), tmp_path / "same.png").exists()


def test_a_metric_that_was_not_logged_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Received: metric='auc'"):
        kbp.plot_training(STAGES, tmp_path / "training.png", metric="auc")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install keras_branch_prune\[report\]"):
        kbp.plot_training(STAGES, tmp_path / "training.png")
    with pytest.raises(ImportError, match=r"pip install keras_branch_prune\[report\]"):
        kbp.plot_sensitivity(sensitivities((0.1, 0.1)), tmp_path / "errors.png")
