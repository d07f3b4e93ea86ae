"""Kills `prune` at random moments, as often as it takes to trust it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import prune_in_a_process
from helpers.prune_in_a_process import compile_, data
from keras import layers

import keras_branch_prune as kbp

SCRIPT = Path(prune_in_a_process.__file__)
KILLS = 10


def trained() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, use_bias=False, padding="same", name="conv1"),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(48, 3, activation="relu", name="conv2"),
            layers.Flatten(),
            layers.Dense(10, name="head"),
        ]
    )
    compile_(model)
    model.fit(*data()[0], epochs=10, verbose=0)
    return model


def start(original, folder):
    command = [sys.executable, str(SCRIPT), str(original), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(original, folder):
    """Runs to the end; returns seconds, and how the run went."""
    begin = time.monotonic()
    process = start(original, folder)
    printed, _ = process.communicate(timeout=900)
    assert process.returncode == 0, printed[-3000:]
    return time.monotonic() - begin, outcome(folder)


def outcome(folder):
    rows = json.loads((folder / "branched.history.json").read_text())
    return {
        "plan": kbp.PruningPlan.load(folder / "plan.json"),
        "alphas": [row["alpha"] for row in rows],
        "epochs": [row["epoch"] for row in rows],
        "accuracy": json.loads((folder / "result.json").read_text())["compact"]["val_accuracy"],
    }


def check_files(folder):
    """Loads everything that is there; hidden files are unfinished and in nobody's way."""
    for path in folder.glob("[!.]*.keras"):
        kbp.load_model(path, compile=False)
    for path in folder.rglob("[!.]*.json"):
        json.loads(path.read_text())
    for path in folder.rglob("[!.]*.npz"):
        np.load(path, allow_pickle=False)


@pytest.mark.slow
def test_whenever_it_is_killed_it_goes_on_as_if_nothing_had_happened(tmp_path):
    original = tmp_path / "original.keras"
    kbp.save_model(trained(), original)
    whole, undisturbed = finish(original, tmp_path / "undisturbed")
    folder, rng = tmp_path / "killed", np.random.default_rng()
    moments = []
    for _ in range(KILLS):
        process = start(original, folder)
        moments.append(rng.uniform(0.2, 0.9) * whole)
        try:
            process.wait(moments[-1])
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), f"after {moments}"
        check_files(folder)
    _, resumed = finish(original, folder)
    assert resumed["plan"] == undisturbed["plan"]
    assert resumed["epochs"] == undisturbed["epochs"], f"after {moments}"
    assert resumed["alphas"] == undisturbed["alphas"], f"after {moments}"
    assert resumed["accuracy"] == pytest.approx(undisturbed["accuracy"], abs=0.02)
