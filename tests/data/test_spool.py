from __future__ import annotations

import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from keras_branch_prune.data.spool import Spool

MIB = 2**20


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def zeros(mib: float) -> np.ndarray:
    return np.zeros(int(mib * MIB), np.uint8)


@pytest.mark.parametrize("memory_mib", [0, 256])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int32", "bool", "bfloat16"])
def test_batches_come_back_as_they_were(dtype, memory_mib):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    rng = np.random.default_rng(0)
    shapes = (3, 4, 5), (2, 4, 5), (1,), ()
    batches = [np.asarray(rng.integers(0, 9, size=shape), dtype) for shape in shapes]
    batches.append(np.asarray(rng.integers(0, 9, size=(4, 6)), dtype).T)
    with Spool(memory_mib) as spool:
        for batch in batches:
            spool.append("key", batch)
        for _ in range(2):
            found = list(spool.batches("key"))
            assert [batch.dtype for batch in found] == [dtype] * len(batches)
            assert all(map(np.array_equal, found, batches))


def test_only_what_is_beyond_the_limit_is_in_files(folder):
    with Spool(memory_mib=2) as spool:
        for key in ("a", "b", "a"):
            spool.append(key, zeros(1))
        assert [path.stat().st_size for path in files_in(folder)] == [MIB]
        spool.drop("b")
        assert len(list(spool.batches("a"))) == 2
        with pytest.raises(KeyError):
            list(spool.batches("b"))
        spool.append("c", zeros(1))
        assert len(files_in(folder)) == 1
        spool.drop("a")
        assert files_in(folder) == []
        spool.drop("never there")


def test_files_are_removed_after_an_exception_too(folder):
    def fail():
        with Spool(0) as spool:
            spool.append("key", zeros(1))
            assert len(files_in(folder)) == 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("memory_mib", [-1, float("nan"), "1"])
def test_memory_must_be_a_number(memory_mib):
    with pytest.raises(ValueError, match=r"`memory_mib` must be a number in \[0, inf\]\. .*="):
        Spool(memory_mib)
