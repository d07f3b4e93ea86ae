"""The package's modules import each other one way only."""

from __future__ import annotations

import ast
import pkgutil
from pathlib import Path

import pytest

import keras_branch_prune

PACKAGE = Path(keras_branch_prune.__file__).parent
ORDER = (
    *("tables", "archive", "untrusted", "files", "graph"),
    *("attention_layers", "attention", "canonical", "equivalence"),
    *(
        "layouts",
        "linear",
        "rule_kinds",
        "shape_rules",
        "linear_rules",
        "einsum_rules",
        "attention_rules",
        "application_rules",
        "operation_rules",
        "slicing_rules",
        "rules",
        "tracker",
        "groups",
    ),
    *("spool", "calibration", "least_squares", "features", "saliency", "ranking"),
    *("scopes", "layers", "costs", "narrowing", "cost_model"),
    *("width_choices", "error_curves", "allocation"),
    *("plan", "reconstruct", "branch"),
    *("arguments", "schedules", "monitors", "alpha", "batch_statistics", "refine"),
    *("snapshot", "divergence", "states"),
    *("callbacks", "backtracking", "learning_rates", "backup"),
    *("rates", "soft_targets", "distillation", "merge"),
    *(
        "explain",
        "fold_norm",
        "fold",
        "verify",
        "export",
        "conversion",
        "onnx_weights",
        "export_litert",
        "export_onnx",
        "export_openvino",
        "benchmark_timing",
        "benchmark_table",
        "benchmark_result",
        "benchmark_backends",
        "worker",
        "benchmark_rounds",
        "benchmark",
        "layer_latency",
        "block_size",
        "latency",
    ),
    *("targets", "planner", "sensitivity"),
    *("run_folder", "shuffled", "recipe", "stages", "pruning_result", "prune", "controls"),
    *("report", "zoo"),
)
WORKERS = {
    "_benchmark_worker",
    "_reload_worker",
    "_runtime",
    "_runtimes",
    "_tensorflow_runtimes",
}


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "keras_branch_prune":
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "keras_branch_prune."
        ):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            assert not any(a.name.startswith("keras_branch_prune") for a in node.names), path
    return found


def test_the_order_names_every_module():
    modules = {module.name for module in pkgutil.iter_modules([str(PACKAGE)])}
    assert modules - WORKERS == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_earlier_ones_only(module):
    paths = [PACKAGE / f"{module}.py"]
    if module == "zoo":
        paths = sorted((PACKAGE / "zoo").glob("*.py"))
    for path in paths:
        later = imported(path) - set(ORDER[: ORDER.index(module)]) - {module}
        assert later == set()


@pytest.mark.parametrize("worker", sorted(WORKERS))
def test_the_workers_import_each_other_only(worker):
    assert imported(PACKAGE / f"{worker}.py") <= WORKERS


def test_every_public_name_exists():
    assert sorted(set(keras_branch_prune.__all__)) == sorted(keras_branch_prune.__all__)
    assert all(hasattr(keras_branch_prune, name) for name in keras_branch_prune.__all__)
