import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import export_cases

import keras_branch_prune as kbp
from keras_branch_prune.runtimes import process
from keras_branch_prune.runtimes.process import WorkerError, start_worker

start_any = functools.partial(start_worker, "It", "litert", "m.tflite")


@pytest.fixture
def script(monkeypatch):
    """Replaces what the process does by a few lines that need no runtime."""
    return functools.partial(monkeypatch.setattr, process, "_START")


def test_a_process_that_does_not_answer(script):
    script("import sys, time\nprint('I am stuck', file=sys.stderr, flush=True)\ntime.sleep(60)")
    message = r"^It gave no answer in 1.0 s. Its error output:\nI am stuck$"
    with start_any(timeout=1.0) as worker, pytest.raises(WorkerError, match=message):
        worker.ask("facts")
    assert worker._process.returncode != 0


def test_a_process_that_ends_between_questions(script):
    script("import sys\nprint('{}', flush=True)\nsys.exit('enough')")
    with start_any(timeout=30.0) as worker:
        assert worker.ask("facts") == {}
        worker._process.wait()
        with pytest.raises(WorkerError, match=r"^It ended early. Its error output:\nenough$"):
            worker.ask("time")


def test_an_error_while_a_command_is_worked_on(tmp_path):
    path = kbp.export_litert(export_cases.wide(), tmp_path / "m.tflite", verify=False)
    with (
        start_worker("It", "litert", path, timeout=60.0) as worker,
        pytest.raises(WorkerError, match=r"ended early(.|\n)*No such file.*nowhere\.npz"),
    ):
        worker.ask("run", names=["features"], source="nowhere.npz", target="nowhere.npz")


def test_the_path_of_a_model_may_be_relative(script, tmp_path, monkeypatch):
    script("import json, os, sys\nprint(json.dumps([sys.argv, os.listdir()]), flush=True)")
    monkeypatch.chdir(tmp_path)
    with start_any(timeout=30.0) as worker:
        (_, _, task), files = worker.ask("facts")
    assert f'"{tmp_path / "m.tflite"}"' in task
    assert files == []


def test_folders_of_modules_may_be_relative(script, tmp_path, monkeypatch):
    script("import json, os\nprint(json.dumps(os.environ['PYTHONPATH']), flush=True)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "mine", "/theirs"]))
    with start_any(timeout=30.0) as worker:
        assert worker.ask("facts") == os.pathsep.join([str(tmp_path / "mine"), "/theirs"])


EXPORTS = {
    "litert": ("m.tflite", functools.partial(kbp.export_litert, verify=False)),
    "saved_model": ("m", functools.partial(kbp.export_saved_model, verify=False)),
    "keras": ("m.keras", kbp.save_model),
}
NAMES = "json queue random numpy tensorflow keras ai_edge_litert runtimes keras_branch_prune"


@pytest.mark.parametrize("runtime", EXPORTS)
def test_files_named_like_modules_are_not_imported(tmp_path, monkeypatch, runtime):
    model, (path, export) = export_cases.wide(), EXPORTS[runtime]
    export(model, tmp_path / path)
    for name in NAMES.split():
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')")
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).random((2, 300)).astype("float32")
    np.savez("in.npz", rows)
    with start_worker("It", runtime, path, timeout=120.0) as worker:
        assert worker.ask("facts")["gpu"] is None
        files = {"source": str(tmp_path / "in.npz"), "target": str(tmp_path / "out.npz")}
        assert len(worker.ask("run", names=["features"], **files)) == 1
    with np.load("out.npz") as stored:
        np.testing.assert_allclose(stored["arr_0"], model(rows), atol=1e-5)


def test_all_modules_are_imported_without_the_package_around_them():
    """What they import of others is NumPy: runtimes are imported when they are made."""
    modules = sorted(path.stem for path in Path(process.__file__).parent.glob("[!_]*.py"))
    code = f"""import sys
before = set(sys.modules)
{process._START.replace(".worker", "").replace(".main()", "")}
for name in {modules}:
    importlib.import_module("runtimes." + name)
found = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(sorted(found - sys.stdlib_module_names))
"""
    command = [sys.executable, "-c", code, str(process._PACKAGE)]
    assert subprocess.check_output(command, text=True).strip() == "['numpy', 'runtimes']"
