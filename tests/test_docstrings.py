"""The examples of all docstrings run, on public names and the one that is explained."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import pkgutil

import pytest
from helpers.example_names import mark, names_for, short_training

import keras_branch_prune as kbp


def find_examples():
    """All docstrings with examples, by name; an example may name what it explains."""
    found = {}
    for info in pkgutil.walk_packages(kbp.__path__, "keras_branch_prune."):
        # Scripts of other processes import by their place.
        if info.name.startswith("keras_branch_prune.runtimes."):
            continue
        module = importlib.import_module(info.name)
        for test in doctest.DocTestFinder().find(module, globs={}):
            name = test.name.removeprefix(f"{info.name}.").split(".")[0]
            if test.examples:
                test.globs = {name: getattr(module, name, None)}
                found[test.name] = test
    return found


EXAMPLES = find_examples()


class ShownOnly(doctest.OutputChecker):
    """Does not compare what an example does not show, such as a progress bar."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


def source(test):
    return "".join(example.source for example in test.examples)


@pytest.mark.parametrize("name", [mark(name, source(EXAMPLES[name])) for name in EXAMPLES])
def test_the_example_runs(name, tmp_path, monkeypatch):
    test = EXAMPLES[name]
    code = source(test)
    test.globs = names_for(code) | test.globs
    monkeypatch.chdir(tmp_path)
    short = contextlib.nullcontext() if ".prune(" in code else short_training(monkeypatch)
    report: list[str] = []
    with short:
        runner = doctest.DocTestRunner(ShownOnly(), verbose=False)
        failed = runner.run(test, out=report.append, clear_globs=False).failed
    assert not failed, "".join(report)


def test_there_are_examples_and_few_are_not_run():
    assert len(EXAMPLES) > 20
    skipped = {
        name
        for name, test in EXAMPLES.items()
        if any(example.options.get(doctest.SKIP) for example in test.examples)
    }
    # It prints times.
    assert skipped == {"keras_branch_prune.benchmarking.measurement.benchmark"}
