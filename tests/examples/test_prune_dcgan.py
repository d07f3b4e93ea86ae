"""Runs the example as a user does, and kills it in the middle."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers.example_runs import EXAMPLES, Example, read
from matplotlib import image

import keras_branch_prune as kbp

EXAMPLE = Example(
    "prune_dcgan",
    (
        *("--image_size=8", "--width=0.0625", "--noise=8", "--images=128", "--calibration=128"),
        *("--classifier_epochs=1", "--train_epochs=2", "--blend_epochs=2", "--finetune_epochs=1"),
        *("--samples=100", "--noise_seeds=2"),
    ),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, EXAMPLE.run(folder)


def generator(folder, stage):
    return kbp.load_model(folder / stage / "generator.keras")


def noise():
    return np.random.default_rng(7).normal(size=(50, 8)).astype("float32")


@pytest.mark.slow
def test_it_leaves_every_stage_and_reports(finished):
    folder, printed = finished
    stages = {"original", "branched", "compact", "scratch"}
    others = {"classifier", "compact_saved_model", "plan.json", "settings.json"}
    reports = {"metrics.json", "table.txt", "samples.png"}
    assert {path.name for path in folder.iterdir()} == stages | others | reports
    for stage in stages:
        files = {path.name for path in (folder / stage).iterdir()}
        assert files == {"generator.keras", "discriminator.keras", "history.json"}
    assert (folder / "table.txt").read_text(encoding="utf-8") in printed
    picture = image.imread(folder / "samples.png")
    # Six rows of images.
    assert 0.3 < picture.shape[0] / picture.shape[1] < 0.6


@pytest.mark.slow
def test_the_table_says_what_the_metrics_say(finished):
    folder, printed = finished
    metrics = read(folder / "metrics.json")
    rows = metrics["generators"]
    assert list(rows) == ["original", "branched", "merged", "compact", "scratch"]
    for name, row in rows.items():
        for split in ("validation", "test"):
            assert 0 < row[split]["standard_deviation"] < row[split]["mean"]
            ratio = row[split]["mean"] / rows["original"][split]["mean"]
            assert row["ratio"][split] == pytest.approx(ratio)
        (line,) = (text for text in printed.splitlines() if text.split()[:1] == [name])
        for number in (f"{row['validation']['mean']:.3f}", f"{row['test']['mean']:.3f}"):
            assert number in line.split()
        assert f"{row['parameters']:,}" in line.split()
    assert 0 <= metrics["real"] < rows["original"]["test"]["mean"]
    assert set(metrics["classifier"]) == {"validation", "test"}


@pytest.mark.slow
def test_the_metrics_describe_the_models_that_it_saved(finished):
    folder, _ = finished
    rows = read(folder / "metrics.json")["generators"]
    for stage in ("original", "branched", "compact", "scratch"):
        model = generator(folder, stage)
        assert rows[stage]["parameters"] == model.count_params()
        assert rows[stage]["macs"] == kbp.count_macs(model)


@pytest.mark.slow
def test_the_branched_generator_at_alpha_zero_is_the_merged_one(finished):
    folder, _ = finished
    branched = generator(folder, "branched")
    assert kbp.get_alpha(branched) == 0
    assert [row["alpha"] for row in read(folder / "branched" / "history.json")] == [1.0, 0.5]
    merged = kbp.merge(branched)
    assert np.abs(branched(noise()) - merged(noise())).max() <= 1e-5
    assert 0 < read(folder / "metrics.json")["merge_error"] <= 1e-5
    # The compact one began there and has been trained on.
    assert np.abs(generator(folder, "compact")(noise()) - merged(noise())).max() > 1e-5
    rows = read(folder / "metrics.json")["generators"]
    assert rows["merged"]["test"]["mean"] == pytest.approx(rows["branched"]["test"]["mean"], 1e-3)
    assert rows["merged"]["test"]["mean"] != rows["compact"]["test"]["mean"]


@pytest.mark.slow
def test_the_compact_generator_and_the_control_are_as_narrow_as_planned(finished):
    folder, _ = finished
    plan = kbp.PruningPlan.load(folder / "plan.json")
    assert {group.name for group in plan.groups} == {"project", "up1", "up2"}
    for stage in ("compact", "scratch"):
        model = generator(folder, stage)
        for group in plan.groups:
            assert model.get_layer(group.name).filters == group.width < group.channels
        assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}


@pytest.mark.slow
def test_the_control_has_as_many_epochs_as_all_stages_together(finished):
    epochs = {
        stage: len(read(finished[0] / stage / "history.json"))
        for stage in ("original", "branched", "compact", "scratch")
    }
    assert epochs == {"original": 2, "branched": 2, "compact": 1, "scratch": 5}


@pytest.mark.slow
def test_pruned_stages_are_taught_and_the_others_are_not(finished):
    for stage, taught in {"original": 0, "branched": 1, "compact": 1, "scratch": 0}.items():
        for row in read(finished[0] / stage / "history.json"):
            assert ("distillation_loss" in row) == taught


@pytest.mark.slow
def test_the_judge_goes_on_from_stage_to_stage(finished):
    folder, _ = finished

    def logits(stage):
        model = kbp.load_model(folder / stage / "discriminator.keras")
        return np.array(model.get_layer("logit").kernel).ravel()

    kept = np.corrcoef(logits("original"), logits("compact"))[0, 1]
    fresh = np.corrcoef(logits("original"), logits("scratch"))[0, 1]
    assert kept > 0.9 > abs(fresh)


REFUSED = {
    "--schedule=step": "α must be 0 after --blend_epochs=2 at the latest",
    "--schedule=reduce_on_plateau": "A GAN has no metric whose plateau would tell.",
}


@pytest.mark.slow
def test_schedules_that_do_not_end_are_refused_before_anything_is_made(finished, tmp_path):
    runs = [(tmp_path / "run", [flag]) for flag in REFUSED]
    *errors, other = EXAMPLE.refusals(*runs, (finished[0], ["--keep=0.5"]))
    for error, message in zip(errors, REFUSED.values(), strict=True):
        assert message in error
    assert list(tmp_path.iterdir()) == []
    assert "was begun with other settings (keep: " in other


@pytest.mark.slow
def test_a_merged_generator_that_differs_is_refused(finished):
    # No difference is small enough for it.
    script = (
        f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "import prune_dcgan; from absl import app\n"
        "prune_dcgan.TOLERANCE = -1.0\n"
        f"app.run(prune_dcgan.main, {EXAMPLE.command(finished[0])[1:]!r})"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert "The merged generator differs from the branched one by" in result.stderr


def assert_same_stage(first, second, stage):
    """Asserts that a stage had the same logs, and ended with the same weights bit for bit."""
    assert read(first / stage / "history.json") == read(second / stage / "history.json")
    for part in ("generator", "discriminator"):
        paths = (folder / stage / f"{part}.keras" for folder in (first, second))
        weights = [kbp.load_model(path).get_weights() for path in paths]
        for a, b in zip(*weights, strict=True):
            assert np.array_equal(a, b, equal_nan=True)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_if_left_alone(finished, tmp_path):
    expected, _ = finished
    for stage in ("original", "branched", "scratch"):
        EXAMPLE.kill_when(tmp_path, f"{stage}.backup/epoch-000001*")
        assert not (tmp_path / stage).exists()
    EXAMPLE.run(tmp_path)
    for stage in ("original", "branched", "compact", "scratch"):
        assert_same_stage(expected, tmp_path, stage)
    assert read(expected / "metrics.json") == read(tmp_path / "metrics.json")


@pytest.mark.slow
def test_the_discriminator_is_pruned_afterwards_in_the_same_folder(finished):
    folder, _ = finished
    before = read(folder / "metrics.json")["generators"]
    printed = EXAMPLE.run(folder, "--prune_discriminator")
    metrics = read(folder / "metrics.json")
    assert list(metrics["generators"]) == [*list(before)[:-1], "both", "scratch"]
    assert metrics["generators"]["compact"] == before["compact"]
    full, narrow = (
        kbp.load_model(folder / stage / "discriminator.keras") for stage in ("original", "both")
    )
    assert metrics["discriminators"] == {
        "original": full.count_params(),
        "both": narrow.count_params(),
    }
    assert narrow.get_layer("conv2").filters == round(0.34375 * full.get_layer("conv2").filters)
    assert f"Discriminator of 'both': {narrow.count_params():,} parameters" in printed
    logs = read(folder / "branched_discriminator" / "history.json")
    assert [row["alpha"] for row in logs] == [1.0, 0.5]


@pytest.mark.slow
def test_the_saved_model_is_the_compact_generator(finished):
    folder, _ = finished
    exported = keras.layers.TFSMLayer(folder / "compact_saved_model", "serving_default")
    (images,) = exported(noise()).values()
    expected = generator(folder, "compact")(noise())
    np.testing.assert_allclose(images, expected, atol=1e-5)
