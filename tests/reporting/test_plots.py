from __future__ import annotations

import sys

import numpy as np
import pytest
from matplotlib import image

import keras_branch_prune as kbp
from keras_branch_prune.benchmarking.timing import Timing, VariantResult
from keras_branch_prune.reporting import speedup_plot

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


def _variant(name, macs, milliseconds):
    timings = tuple(
        Timing("cpu", size, 1.0, 1.0, milliseconds, backend=backend, threads=threads)
        for backend in ("keras", "litert")
        for threads in (None, 2)
        for size in (1, 64)
    )
    return VariantResult(name, 1, macs, (), {}, timings)


SPEEDUPS = kbp.BenchmarkResult(
    (
        _variant("original", 800, (8.0,) * 7),
        _variant("half", 400, (4.0, 4.0, 4.0, 4.0, 5.0, 2.0, 4.0)),
        _variant("unknown", None, (1.0,) * 7),
        _variant("quarter", 100, (2.0,) * 7),
    ),
    {},
)


@pytest.fixture
def figures(monkeypatch):
    """The figures that were made."""
    made = []
    new_figure = speedup_plot.new_figure

    def make(width, height):
        made.append(new_figure(width, height))
        return made[-1]

    monkeypatch.setattr(speedup_plot, "new_figure", make)
    return made


def test_speedups_are_drawn_against_what_the_macs_promise(tmp_path, figures):
    path = kbp.plot_speedup(SPEEDUPS, tmp_path / "new" / "speedup.png")
    assert list((tmp_path / "new").iterdir()) == [path]
    assert image.imread(path).size > 0
    (figure,) = figures
    assert [axes.get_title() for axes in figure.axes] == [
        f"batch {size}, CPU, threads {threads}" for size in (1, 64) for threads in ("by default", 2)
    ]
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert sorted(legend) == ["as the MACs promise", "keras", "litert"]
    for axes in figure.axes:
        keras, litert = axes.containers
        colours = {bars.lines[0].get_color() for bars in (keras, litert)}
        markers = {bars.lines[0].get_marker() for bars in (keras, litert)}
        assert (len(colours), len(markers)) == (2, 2)
        for bars in (keras, litert):
            ratios, speedups = bars.lines[0].get_data()
            assert list(ratios) == pytest.approx([2.0, 8.0], rel=0.05)
            assert list(speedups) == [2.0, 4.0]
            (ends,) = (collection.get_segments() for collection in bars.lines[2])
            assert [y for bar in ends for y in bar[:, 1]] == pytest.approx([1.6, 4.0, 4.0, 4.0])
        (diagonal,) = (line for line in axes.lines if line.get_label() == "as the MACs promise")
        assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [1.0, 8.0]


def test_a_speedup_needs_known_macs(tmp_path):
    original, _, unknown, quarter = SPEEDUPS.variants
    for variants in ((original,), (original, unknown), (unknown, quarter)):
        with pytest.raises(ValueError, match=r"`result` must have another .* Received: \{'"):
            kbp.plot_speedup(kbp.BenchmarkResult(variants, {}), tmp_path / "speedup.png")
    assert list(tmp_path.iterdir()) == []


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
    with pytest.raises(ImportError, match=r"pip install keras_branch_prune\[report\]"):
        kbp.plot_speedup(SPEEDUPS, tmp_path / "speedup.png")
