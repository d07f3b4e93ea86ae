"""The Python blocks of the README run, on stand-ins for the data."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from helpers.example_names import mark, names_for, short_training

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
OMITTED = {
    "fit(...": "fit(train, validation_data=validation",
    "compile(...": 'compile("sgd", "sparse_categorical_crossentropy"',
}


def filled(block):
    """Puts arguments where the README leaves them out."""
    for omitted, arguments in OMITTED.items():
        block = block.replace(omitted, arguments)
    return block


@pytest.mark.parametrize("number", [mark(number, block) for number, block in enumerate(BLOCKS)])
def test_the_block_runs(number, tmp_path, monkeypatch):
    block = filled(BLOCKS[number])
    monkeypatch.chdir(tmp_path)
    short = contextlib.nullcontext() if ".prune(" in block else short_training(monkeypatch)
    with short:
        exec(compile(block, f"{README.name}, block {number}", "exec"), names_for(block))


def test_there_are_blocks():
    assert len(BLOCKS) >= 5
