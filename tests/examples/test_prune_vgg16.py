"""Runs the example as a user does, and kills it in the middle."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

import keras_branch_prune as kbp

EXAMPLE = Path(__file__).parents[2] / "examples" / "prune_vgg16.py"
SHORT = ("--width=0.0625", "--train_epochs=1", "--finetune_epochs=1", "--schedule_parameter=0.25")


def command(folder, *flags):
    return [sys.executable, str(EXAMPLE), f"--output_dir={folder}", *SHORT, *flags]


def run(folder, *flags):
    """Runs the example to its end and returns what it printed."""
    result = subprocess.run(command(folder, *flags), capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(folder)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def history(folder, name):
    return read(folder / f"{name}.history.json")


def test_it_leaves_models_exports_metrics_and_pictures(finished):
    folder, printed = finished
    original = {"original.keras", "original.history.json", "original_saved_model"}
    reports = {"settings.json", "metrics.json", "table.txt", "training.png"}
    assert {path.name for path in folder.iterdir()} == original | reports | {"pruned"}
    pruned = {path.name for path in (folder / "pruned").iterdir()}
    assert {"plan.json", "branched.keras", "compact.keras", "compact_saved_model"} <= pruned
    assert "time/image at batch 64" in printed
    assert (folder / "table.txt").read_text() in printed
    assert image.imread(folder / "training.png").shape[2] == 4


def test_its_metrics_describe_the_models_that_it_saved(finished):
    folder, _ = finished
    metrics = read(folder / "metrics.json")
    for name, path in {"original": "original", "compact": "pruned/compact"}.items():
        model = kbp.load_model(folder / f"{path}.keras")
        assert metrics[name]["parameters"] == model.count_params()
        assert 0 < metrics[name]["test_accuracy"] < 1
    assert 0.1 < metrics["compact"]["parameters"] / metrics["original"]["parameters"] < 0.15


def test_the_plan_and_the_compact_model_agree(finished):
    folder, _ = finished
    plan = kbp.PruningPlan.load(folder / "pruned" / "plan.json")
    compact = kbp.load_model(folder / "pruned" / "compact.keras")
    for group in plan.groups:
        assert compact.get_layer(group.name).filters == group.width


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


def test_alpha_falls_as_the_flags_say(finished):
    folder, _ = finished
    rows = history(folder / "pruned", "branched")
    assert [row["alpha"] for row in rows] == [1.0, 0.75, 0.5, 0.25]


def refusal(folder, *flags):
    """Runs the example, which must refuse, and returns what it printed as an error."""
    result = subprocess.run(command(folder, *flags), capture_output=True, text=True, timeout=300)
    assert result.returncode != 0
    return result.stderr


def test_a_folder_of_other_settings_is_refused(finished):
    error = refusal(finished[0], "--keep=0.5")
    assert "was begun with other settings (keep: " in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--keep=0.5", "--macs=0.2"], "At most one of (keep, prune, macs, params)"),
        (
            ["--schedule_parameter=2"],
            "`step_size` must be a number in (0, 1]. Received: step_size=2",
        ),
        (["--folds=2", "--pretrained=a.keras"], "At most one of (pretrained, folds)"),
    ],
)
def test_flags_that_contradict_are_refused_before_anything_is_made(tmp_path, flags, message):
    folder = tmp_path / "run"
    assert message in refusal(folder, *flags)
    assert not folder.exists()


@pytest.mark.slow
def test_it_prunes_a_pretrained_model_by_the_share_to_remove(finished, tmp_path):
    pretrained = finished[0] / "original.keras"
    run(
        tmp_path,
        f"--pretrained={pretrained}",
        "--prune=0.5",
        "--schedule=linear",
        "--schedule_parameter=2",
        "--notrain_original",
        "--nobenchmark",
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
    flags += ["--nobenchmark", "--controls", "--rounds=2"]
    printed = run(tmp_path, *flags)
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


def kill_when(folder, file, *flags):
    """Runs the example, and kills it once there is such a file."""
    process = subprocess.Popen(command(folder, *flags), stdout=subprocess.DEVNULL)
    while not list(folder.glob(file)):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def assert_same_stage(first, second, name):
    """Asserts that a stage had the same logs, and ended with the same weights bit for bit."""
    assert history(first, name) == history(second, name)
    weights = [kbp.load_model(f / f"{name}.keras").get_weights() for f in (first, second)]
    for a, b in zip(*weights, strict=True):
        assert np.array_equal(a, b, equal_nan=True)


@pytest.mark.slow
def test_killed_while_alpha_falls_it_ends_as_if_left_alone(finished, tmp_path):
    expected, _ = finished
    kill_when(tmp_path, "pruned/branched.backup/epoch-000002*")
    assert not (tmp_path / "pruned" / "branched.keras").exists()
    run(tmp_path, "--nobenchmark")
    assert_same_stage(expected, tmp_path, "original")
    for name in ("branched", "compact"):
        assert_same_stage(expected / "pruned", tmp_path / "pruned", name)


@pytest.mark.slow
def test_folds_are_pruned_one_by_one_and_resumed(tmp_path):
    flags = ("--folds=2", "--schedule_parameter=0.5")
    kill_when(tmp_path, "fold_2/pruned/branched.backup/epoch-000001*", *flags)
    printed = run(tmp_path, *flags)
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
