"""What the package offers, and how its folders see each other."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import keras_branch_prune as kbp

PACKAGE = Path(kbp.__file__).parent
FOLDERS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())


def imported(path):
    """The modules that a file imports from, as they are written."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def test_every_public_name_exists():
    assert len(set(kbp.__all__)) == len(kbp.__all__)
    assert all(hasattr(kbp, name) for name in kbp.__all__)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_exports_what_it_says(folder):
    module = getattr(__import__(f"keras_branch_prune.{folder}"), folder)
    assert sorted(module.__all__) == sorted(set(module.__all__))
    assert all(hasattr(module, name) for name in module.__all__)
    assert len((module.__doc__ or "").strip().splitlines()) == 1


@pytest.mark.parametrize("folder", FOLDERS)
def test_other_folders_are_imported_whole(folder):
    """Only what the `__init__` of a folder exports is seen from outside it."""
    for path in (PACKAGE / folder).glob("*.py"):
        inside = [m.split(".") for m in imported(path) if m.startswith("keras_branch_prune.")]
        assert {m[1] for m in inside if len(m) > 2} <= {folder}, path


def test_no_module_bears_the_name_of_a_public_function():
    functions = {name for name in kbp.__all__ if inspect.isfunction(getattr(kbp, name))}
    modules = {path.stem for path in PACKAGE.rglob("*.py")} | set(FOLDERS)
    assert not functions & modules
