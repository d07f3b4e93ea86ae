import pytest

from keras_branch_prune.benchmarking.rounds import BenchmarkError, Workload, start_workers
from keras_branch_prune.runtimes import WorkerError, process

SLOW = "import sys, time\nprint('I am stuck', file=sys.stderr, flush=True)\ntime.sleep(60)"
WORKLOADS = {
    "products of matrices on the CPU": Workload("cpu", "matmul", None),
    "products of matrices on the GPU with threads=2": Workload("gpu", "matmul", 2),
}


@pytest.mark.parametrize("label", WORKLOADS)
def test_the_error_names_what_was_measured(monkeypatch, label):
    monkeypatch.setattr(process, "_START", SLOW)
    message = rf"^The process that measures {label} gave no answer in 1.0 s. Its .*:\nI am stuck$"
    with (
        pytest.raises(BenchmarkError, match=message) as caught,
        start_workers([WORKLOADS[label]], {}, None, timeout=1.0) as workers,
    ):
        workers[WORKLOADS[label]].ask("facts")
    assert isinstance(caught.value.__cause__, WorkerError)
