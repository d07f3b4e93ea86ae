import sys

import pytest

from keras_branch_prune.runtimes import process as worker
from keras_branch_prune.runtimes.process import BenchmarkError, start_worker

OPTIONS = {"path": "", "device": "cpu", "threads": None, "input_shape": None}


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Replaces the far end of the protocol by a few lines that need no TensorFlow."""

    def replace(code):
        path = tmp_path / "worker.py"
        path.write_text(code)
        monkeypatch.setattr(
            worker, "command_line", lambda module, *arguments: [sys.executable, str(path)]
        )

    return replace


def test_a_process_that_does_not_answer(script):
    script("import sys, time\nprint('I am stuck', file=sys.stderr, flush=True)\ntime.sleep(60)")
    message = r"'slow' gave no answer in 1.0 s(.|\n)*stuck"
    with (
        start_worker("'slow'", OPTIONS, timeout=1.0) as process,
        pytest.raises(BenchmarkError, match=message),
    ):
        process.ready()
    assert process._process.returncode != 0


def test_a_process_that_ends_between_questions(script):
    script("print('{}', flush=True)")
    with start_worker("'short'", OPTIONS, timeout=30.0) as process:
        assert process.ready() == {}
        process._process.wait()
        with pytest.raises(BenchmarkError, match="'short' ended early"):
            process.ask(command="time")
