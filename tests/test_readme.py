"""The Python blocks of the README run, on stand-ins for the data."""

from __future__ import annotations

import contextlib
import functools
import re
from pathlib import Path

import pytest
from helpers.example_names import mark, names_for, short_training

import keras_branch_prune as kbp

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
ARGUMENTS = {
    "fit(...": "fit(train, validation_data=validation",
    "compile(...": 'compile("sgd", "sparse_categorical_crossentropy"',
    "milliseconds=2.0": "share=0.9",  # It must be less than the model takes.
}


def filled(block):
    """Puts arguments where the README leaves them out, or those of a tiny model."""
    for written, arguments in ARGUMENTS.items():
        block = block.replace(written, arguments)
    return block


@pytest.mark.filterwarnings("ignore:`latency` was not met")  # A tiny model is mostly overhead.
@pytest.mark.parametrize("number", [mark(number, block) for number, block in enumerate(BLOCKS)])
def test_the_block_runs(number, tmp_path, monkeypatch):
    block = filled(BLOCKS[number])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kbp, "benchmark", functools.partial(kbp.benchmark, seconds=0.01, rounds=2))
    short = contextlib.nullcontext() if ".prune(" in block else short_training(monkeypatch)
    with short:
        exec(compile(block, f"{README.name}, block {number}", "exec"), names_for(block))


def test_there_are_blocks():
    assert len(BLOCKS) >= 5
