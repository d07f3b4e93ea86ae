"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which replaces `path` once the block is done.

    Write a file or make a directory there. If the block raises, what it wrote is removed and `path`
    stays as it was; an old directory is kept until the new one is complete.

    Args:
        path: The final path. Missing parent directories are made.

    Yields:
        A path that does not exist yet, in the same directory and with the same suffix.

    Raises:
        FileNotFoundError: The block wrote nothing.
        FileExistsError: A directory would replace a file, or a file a directory.

    Example:
        >>> with keras_branch_prune.atomic_write("metrics.json") as temporary:
        ...     characters = temporary.write_text('{"accuracy": 0.9}')
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same directory, as a rename is atomic only within a file system; with the same suffix,
    # as Keras, NumPy and matplotlib choose the format by it; hidden, as a kill may leave it behind.
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        _replace(temporary, path)
    finally:
        _remove(temporary)


def _replace(new: Path, path: Path) -> None:
    if not new.exists():
        raise FileNotFoundError(f"Nothing was written that could become '{path}'")
    if path.exists() and path.is_dir() != new.is_dir():
        kinds = ("a file", "a directory")
        raise FileExistsError(
            f"Cannot write {kinds[new.is_dir()]} to '{path}', which is {kinds[path.is_dir()]}"
        )
    if path.is_dir():
        _replace_directory(new, path)
    else:
        os.replace(new, path)


def _replace_directory(new: Path, path: Path) -> None:
    """Swaps two directories; a full directory cannot be replaced in one step."""
    old = new.with_name(f"{new.name}.old")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
