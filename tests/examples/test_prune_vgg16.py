"""Runs the example as a user does, and kills it in the middle."""

from __future__ import annotations

import statistics
import subprocess
import sys

import numpy as np
import pytest
from helpers.example_runs import Example, read
from matplotlib import image

import keras_branch_prune as kbp

EXAMPLE = Example(
    "prune_vgg16",
    (
        *("--width=0.0625", "--train_epochs=1", "--finetune_epochs=1", "--schedule_parameter=0.25"),
        *("--calibration=64", "--nobenchmark"),
    ),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, EXAMPLE.run(folder)


def history(folder, name):
    return read(folder / f"{name}.history.json")


@pytest.mark.slow
def test_it_leaves_models_exports_metrics_and_pictures(finished):
    folder, printed = finished
    original = {"original.keras", "original.history.json", "original_saved_model"}
    reports = {"settings.json", "metrics.json", "table.txt", "training.png"}
    assert {path.name for path in folder.iterdir()} == original | reports | {"pruned"}
    pruned = {path.name for path in (folder / "pruned").iterdir()}
    assert {"plan.json", "branched.keras", "compact.keras", "compact_saved_model"} <= pruned
    assert (folder / "table.txt").read_text() in printed
    assert image.imread(folder / "training.png").shape[2] == 4


@pytest.mark.slow
def test_its_metrics_describe_the_models_that_it_saved(finished):
    folder, _ = finished
    metrics = read(folder / "metrics.json")
    for name, path in {"original": "original", "compact": "pruned/compact"}.items():
        model = kbp.load_model(folder / f"{path}.keras")
        assert metrics[name]["parameters"] == model.count_params()
        assert 0 < metrics[name]["test_accuracy"] < 1
    assert 0.1 < metrics["compact"]["parameters"] / metrics["original"]["parameters"] < 0.15


@pytest.mark.slow
def test_the_plan_and_the_compact_model_agree(finished):
    folder, _ = finished
    plan = kbp.PruningPlan.load(folder / "pruned" / "plan.json")
    compact = kbp.load_model(folder / "pruned" / "compact.keras")
    for group in plan.groups:
        assert compact.get_layer(group.name).filters == group.width


@pytest.mark.slow
def test_the_compact_model_loads_without_the_package(finished):
    folder = finished[0] / "pruned"
    script = (
        "import sys; sys.modules['keras_branch_prune'] = None\n"
        "import keras, tensorflow as tf\n"
        f"print(keras.models.load_model({str(folder / 'compact.keras')!r}).output_shape)\n"
        f"print(sorted(tf.saved_model.load({str(folder / 'compact_saved_model')!r}).signatures))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert result.stdout.split("\n")[:2] == ["(None, 10)", "['serving_default']"], result.stderr


@pytest.mark.slow
def test_alpha_falls_as_the_flags_say(finished):
    folder, _ = finished
    rows = history(folder / "pruned", "branched")
    assert [row["alpha"] for row in rows] == [1.0, 0.75, 0.5, 0.25]


CONTRADICTIONS = {
    "--keep=0.5 --macs=0.2": "At most one of (keep, prune, macs, params)",
    "--schedule_parameter=2": "`step_size` must be a number in (0, 1]. Received: step_size=2",
    "--folds=2 --pretrained=a.keras": "At most one of (pretrained, folds)",
}


@pytest.mark.slow
def test_flags_that_contradict_are_refused_before_anything_is_made(finished, tmp_path):
    runs = [(tmp_path / "run", flags.split()) for flags in CONTRADICTIONS]
    *errors, other = EXAMPLE.refusals(*runs, (finished[0], ["--keep=0.5"]))
    for error, message in zip(errors, CONTRADICTIONS.values(), strict=True):
        assert message in error
    assert list(tmp_path.iterdir()) == []
    assert "was begun with other settings (keep: " in other


@pytest.mark.slow
def test_it_measures_the_original_and_the_compact_model(finished, tmp_path):
    flags = (f"--pretrained={finished[0] / 'original.keras'}", "--schedule_parameter=1")
    assert "time/image at batch 64" in EXAMPLE.run(tmp_path, *flags, "--benchmark")
    assert "benchmark" in read(tmp_path / "metrics.json")


@pytest.mark.slow
def test_it_prunes_a_pretrained_model_by_the_share_to_remove(finished, tmp_path):
    pretrained = finished[0] / "original.keras"
    EXAMPLE.run(
        tmp_path,
        f"--pretrained={pretrained}",
        "--prune=0.5",
        "--schedule=linear",
        "--schedule_parameter=2",
        "--notrain_original",
    )
    paths = (pretrained, tmp_path / "pruned" / "compact.keras")
    original, pruned = (kbp.load_model(path) for path in paths)
    for layer in original.layers:
        if hasattr(layer, "filters"):
            assert pruned.get_layer(layer.name).filters == layer.filters // 2
    rows = history(tmp_path / "pruned", "branched")
    assert [row["alpha"] for row in rows] == [1.0, 0.5]


@pytest.mark.slow
def test_the_controls_have_the_same_architecture_and_as_many_epochs(finished, tmp_path):
    pretrained = finished[0] / "original.keras"
    flags = [f"--pretrained={pretrained}", "--macs=0.3", "--backtracking", "--max_drop=1"]
    flags += ["--controls", "--rounds=2"]
    printed = EXAMPLE.run(tmp_path, *flags)
    metrics = read(tmp_path / "metrics.json")
    assert list(metrics) == ["original", "compact", "standard", "scratch"]
    sizes = {metrics[name]["macs"] for name in ("compact", "standard", "scratch")}
    assert len(sizes) == 1
    assert 0.25 < sizes.pop() / metrics["original"]["macs"] <= 0.3
    epochs = sum(len(history(tmp_path / "pruned", name)) for name in ("branched", "compact"))
    rounds = [history(tmp_path / "standard", f"round_{number}") for number in (1, 2)]
    assert epochs <= sum(map(len, rounds)) <= epochs + 1
    assert len(history(tmp_path / "scratch", "scratch")) == epochs
    for name, row in metrics.items():
        assert f"{name:>10}: accuracy {row['val_accuracy']:.4f} on validation" in printed


def assert_same_stage(first, second, name):
    """Asserts that a stage had the same logs, and ended with the same weights bit for bit."""
    assert history(first, name) == history(second, name)
    weights = [kbp.load_model(f / f"{name}.keras").get_weights() for f in (first, second)]
    for a, b in zip(*weights, strict=True):
        assert np.array_equal(a, b, equal_nan=True)


@pytest.mark.slow
def test_killed_while_alpha_falls_it_ends_as_if_left_alone(finished, tmp_path):
    expected, _ = finished
    EXAMPLE.kill_when(tmp_path, "pruned/branched.backup/epoch-000002*")
    assert not (tmp_path / "pruned" / "branched.keras").exists()
    EXAMPLE.run(tmp_path)
    assert_same_stage(expected, tmp_path, "original")
    for name in ("branched", "compact"):
        assert_same_stage(expected / "pruned", tmp_path / "pruned", name)


@pytest.mark.slow
def test_folds_are_pruned_one_by_one_and_resumed(tmp_path):
    flags = ("--folds=2", "--schedule_parameter=0.5")
    EXAMPLE.kill_when(tmp_path, "fold_2/pruned/branched.backup/epoch-000001*", *flags)
    printed = EXAMPLE.run(tmp_path, *flags)
    metrics = read(tmp_path / "metrics.json")
    assert len(metrics["folds"]) == 2
    for name in ("original", "compact"):
        values = [fold[name]["val_accuracy"] for fold in metrics["folds"]]
        assert not any("test" in key for fold in metrics["folds"] for key in fold[name])
        row = metrics["val_accuracy"][name]
        assert row["mean"] == pytest.approx(np.mean(values))
        line = f"{name:>10}: accuracy {np.mean(values):.4f} ± {statistics.stdev(values):.4f}"
        assert line in printed
    weights = [
        kbp.load_model(tmp_path / f"fold_{number}" / "original.keras").get_weights()
        for number in (1, 2)
    ]
    assert not np.array_equal(weights[0][0], weights[1][0])
