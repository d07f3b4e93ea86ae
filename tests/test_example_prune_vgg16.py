"""Runs the example as a user does, and kills it in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

import keras_branch_prune as kbp

EXAMPLE = Path(__file__).parents[1] / "examples" / "prune_vgg16.py"
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


def test_it_leaves_models_exports_metrics_and_pictures(finished):
    folder, printed = finished
    files = {path.name for path in folder.iterdir()}
    models = {f"{name}.keras" for name in ("original", "branched", "compact")}
    histories = {f"{name}.history.json" for name in ("original", "branched", "compact")}
    exports = {"original_saved_model", "compact_saved_model"}
    reports = {"settings.json", "plan.json", "metrics.json", "table.txt", "training.png"}
    assert files == models | histories | exports | reports
    assert "time/image at batch 64" in printed
    assert (folder / "table.txt").read_text() in printed
    assert image.imread(folder / "training.png").shape[2] == 4


def test_its_metrics_describe_the_models_that_it_saved(finished):
    folder, _ = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("original", "compact"):
        model = kbp.load_model(folder / f"{name}.keras")
        assert metrics[name]["parameters"] == model.count_params()
        assert 0 < metrics[name]["test_accuracy"] < 1
    assert 0.1 < metrics["compact"]["parameters"] / metrics["original"]["parameters"] < 0.15


def test_the_plan_and_the_compact_model_agree(finished):
    folder, _ = finished
    plan = kbp.PruningPlan.load(folder / "plan.json")
    compact = kbp.load_model(folder / "compact.keras")
    for group in plan.groups:
        assert compact.get_layer(group.name).filters == group.width


def test_the_compact_model_loads_without_the_package(finished):
    folder, _ = finished
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
    history = json.loads((folder / "branched.history.json").read_text())
    assert [row["alpha"] for row in history] == [1.0, 0.75, 0.5, 0.25]


def test_a_folder_of_other_settings_is_refused(finished):
    folder, _ = finished
    result = subprocess.run(
        command(folder, "--keep=0.5"), capture_output=True, text=True, timeout=300
    )
    assert result.returncode != 0
    assert "was begun with other settings: ['keep']" in result.stderr


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
    original, pruned = (kbp.load_model(path) for path in (pretrained, tmp_path / "compact.keras"))
    for layer in original.layers:
        if hasattr(layer, "filters"):
            assert pruned.get_layer(layer.name).filters == layer.filters // 2
    history = json.loads((tmp_path / "branched.history.json").read_text())
    assert [row["alpha"] for row in history] == [1.0, 0.5]


@pytest.mark.slow
def test_killed_while_alpha_falls_it_ends_as_if_left_alone(finished, tmp_path):
    expected, _ = finished
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("branched.backup/epoch-000002*")):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "branched.keras").exists()
    run(tmp_path, "--nobenchmark")
    for name in ("original", "branched", "compact"):
        rows = [json.loads((f / f"{name}.history.json").read_text()) for f in (expected, tmp_path)]
        assert rows[0] == rows[1]
        weights = [kbp.load_model(f / f"{name}.keras").get_weights() for f in (expected, tmp_path)]
        for a, b in zip(*weights, strict=True):
            assert np.array_equal(a, b, equal_nan=True)
