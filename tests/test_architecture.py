"""What the package offers, and how its folders see each other."""

from __future__ import annotations

import ast
import inspect
import re
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


INTERNALS = PACKAGE / "common" / "keras_internals.py"
# `HeadAttention` takes the place of what `MultiHeadAttention` makes of these.
HEADS = PACKAGE / "graph" / "attention_layers.py"


def private_names(path):
    """Modules of Keras without a public name, and private attributes of foreign objects."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = (
                [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            found |= {name for name in names if (name or "").startswith("keras.src")}
        elif isinstance(node, ast.JoinedStr):
            found |= {v.value for v in node.values if "keras.src" in str(getattr(v, "value", ""))}
        elif isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found |= set() if own else {node.attr}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
            name = getattr(node.args[1], "value", "")
            found |= {name} if re.match("_[a-z]", str(name)) else set()
    return found


def test_private_names_of_keras_stand_in_one_module():
    assert private_names(INTERNALS) == {
        "_functional",
        "_inputs_struct",
        "_keras_history",
        "_keras_mask",
        "_nodes_by_depth",
        "_outputs_struct",
        "keras.src.applications.",
        "keras.src.backend.common",
        "keras.src.saving",
    }
    ours = {"_asdict"}  # of a NamedTuple
    found = {path: private_names(path) - ours for path in PACKAGE.rglob("*.py")}
    assert {path for path, names in found.items() if names} == {INTERNALS}


def test_only_split_attention_reaches_into_a_layer_it_inherits_from():
    reaches = {
        path
        for path in PACKAGE.rglob("*.py")
        if re.search(
            r"self\._(query|key|value|output)_dense|self\._build_attention", path.read_text()
        )
    }
    assert reaches == {HEADS}


def test_no_module_bears_the_name_of_a_public_function():
    functions = {name for name in kbp.__all__ if inspect.isfunction(getattr(kbp, name))}
    modules = {path.stem for path in PACKAGE.rglob("*.py")} | set(FOLDERS)
    assert not functions & modules
