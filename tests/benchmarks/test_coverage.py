"""Architectures of `keras.applications`, pruned with their residual streams, and checked."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "coverage.py"


def load_script():
    """Returns the script as a module, by its path: its name is also that of a package."""
    spec = importlib.util.spec_from_file_location("coverage_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark = load_script()
FAST = ("MobileNetV2", "MobileNetV3Small")
SENSITIVE = (*FAST, "ResNet50", "NASNetMobile")
BAR = 1e-4


def check(result: dict) -> None:
    """Asserts that a result is exact and small."""
    before, after = result["parameters"]
    assert result["start_error"] == 0.0
    assert result["merge_error"] <= BAR
    assert after < 0.4 * before
    assert result["prunable"] >= result["groups"] - 1
    if result["name"] in SENSITIVE:
        assert result["sensitivity"] > 1e-2


@pytest.mark.parametrize("name", FAST)
def test_a_few_architectures(name):
    check(benchmark.measure(name, 0.5, 75))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(benchmark.architectures()) - set(FAST)))
def test_all_other_architectures(name, tmp_path):
    # In a process of its own, which gives its memory back.
    output = tmp_path / "result.json"
    flags = [f"--names={name}", "--policies=float32", f"--output={output}", "--size=75"]
    subprocess.run([sys.executable, SCRIPT, *flags], check=True, timeout=1800)
    (result,) = json.loads(output.read_text(encoding="utf-8"))
    check(result)
