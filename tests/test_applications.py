"""Architectures of `keras.applications`, pruned with their residual streams, and checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import applications
import pytest
from applications import architectures, measure

FAST = ("MobileNetV2", "MobileNetV3Small", "ResNet50", "NASNetMobile")
BAR = 1e-4


def check(result: dict) -> None:
    """Asserts that a result is exact and small."""
    before, after = result["parameters"]
    assert result["start_error"] == 0.0
    assert result["merge_error"] <= BAR
    assert after < 0.4 * before
    assert result["prunable"] >= result["groups"] - 1


@pytest.mark.parametrize("name", FAST)
def test_a_few_architectures(name):
    result = measure(name, 0.5, 75)
    assert result["sensitivity"] > 1e-2
    check(result)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(architectures()) - set(FAST)))
def test_all_other_architectures(name, tmp_path):
    # In a process of its own, which gives its memory back.
    script, output = Path(applications.__file__), tmp_path / "result.json"
    flags = [f"--names={name}", f"--output={output}", "--size=75"]
    subprocess.run([sys.executable, script, *flags], check=True, timeout=1800)
    (result,) = json.loads(output.read_text(encoding="utf-8"))
    check(result)
