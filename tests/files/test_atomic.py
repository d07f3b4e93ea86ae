"""A file or folder is written whole or not at all."""

from pathlib import Path

import pytest

from keras_branch_prune.files.atomic import atomic_write


def test_a_failed_write_leaves_nothing(tmp_path):
    def write(path):
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "results" / "metrics.json")
    assert list((tmp_path / "results").iterdir()) == []


def test_a_written_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "metrics.json"
    for text in ("old", "new"):
        with atomic_write(path) as temporary:
            assert temporary.suffix == ".json"
            temporary.write_text(text)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def write_directory(path, text, fail=False):
    with atomic_write(path) as temporary:
        temporary.mkdir()
        (temporary / "a.txt").write_text(text)
        if fail:
            raise OSError("disk full")


def test_a_directory_is_replaced_whole(tmp_path):
    path = tmp_path / "exported"
    write_directory(path, "old")
    (path / "stale.txt").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_directory(path, "half", fail=True)
    assert sorted(item.name for item in path.iterdir()) == ["a.txt", "stale.txt"]
    write_directory(path, "new")
    assert [item.read_text() for item in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_directory_comes_back_when_the_swap_fails(tmp_path, monkeypatch):
    path = tmp_path / "exported"
    write_directory(path, "old")
    rename = Path.rename

    def fail_onto_path(self, target):
        if target == path and not self.name.endswith(".old"):
            raise OSError("no rename")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_onto_path)
    with pytest.raises(OSError, match="no rename"):
        write_directory(path, "new")
    assert (path / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_kinds_are_not_mixed_and_nothing_is_an_error(tmp_path):
    write_directory(tmp_path / "exported", "old")
    with (
        pytest.raises(FileExistsError, match=r"Cannot write a file to '.*', which is a directory"),
        atomic_write(tmp_path / "exported") as temporary,
    ):
        temporary.write_text("a file")
    with (
        pytest.raises(FileNotFoundError, match="Nothing was written"),
        atomic_write(tmp_path / "empty.txt"),
    ):
        pass
