"""Reads a `.keras` archive without Keras: its architecture, and how much its weights hold."""

import io
import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py

CONFIG = "config.json"
WEIGHTS = "model.weights.h5"

# Keras stores members uncompressed; float weights hardly shrink when somebody packs them again.
_MAX_EXPANSION = 20
_EXPANSION_FLOOR = 16 * 2**20


class ModelFileError(ValueError):
    """A file that is no Keras model, or one that is not safe to load.

    The message says which file and what is wrong with it. If the file is yours and holds a class or
    function of your own, pass that in `load_model(…, custom_objects=…)`.
    """


@dataclass(frozen=True)
class Archive:
    """What a `.keras` file claims to hold; nothing of it has been built yet.

    Attributes:
        config: The parsed architecture, `config.json`.
        stored_values: How many numbers the weights really hold, the optimizer's not counted.
    """

    config: dict[str, Any]
    stored_values: int


def read_archive(path: Path) -> Archive:
    """Reads a `.keras` file's architecture and measures its weights.

    Args:
        path: An existing `.keras` file.

    Returns:
        The architecture and the number of stored values.

    Raises:
        ModelFileError: The file is not a zip, is truncated or corrupt, lacks a member, or claims
            to hold more than it does.
    """
    try:
        with zipfile.ZipFile(path) as file:
            _check_members(file, path.stat().st_size)
            return Archive(_parse_config(file.read(CONFIG)), _count_stored(file.read(WEIGHTS)))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError) as error:
        raise ModelFileError(
            f"it is not a zip archive, or is truncated or corrupt ({error})"
        ) from error
    except (NotImplementedError, RuntimeError) as error:
        raise ModelFileError(f"its members cannot be unpacked ({error})") from error


def _check_members(file: zipfile.ZipFile, archive_size: int) -> None:
    names = file.namelist()
    for required in (CONFIG, WEIGHTS):
        if required not in names:
            raise ModelFileError(f"it has no member {required!r}. Received members: {names[:10]}")
    # Of two members of one name, Keras might read the one that was not checked.
    if len(set(names)) != len(names):
        raise ModelFileError("two of its members have the same name")
    # Members that share their bytes are a zip bomb that no single member's expansion gives away.
    if sum(member.compress_size for member in file.infolist()) > archive_size:
        raise ModelFileError("its members overlap or are cut off")
    for member in file.infolist():
        _check_member(member)


def _check_member(member: zipfile.ZipInfo) -> None:
    # Windows takes backslashes for separators and "C:" for a drive.
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in member.filename:
        raise ModelFileError(f"its member {member.filename!r} would be written outside the archive")
    if member.file_size > _EXPANSION_FLOOR + _MAX_EXPANSION * member.compress_size:
        raise ModelFileError(
            f"its member {member.filename!r} expands from {member.compress_size} to "
            f"{member.file_size} bytes, more than {_MAX_EXPANSION} times"
        )


def _parse_config(text: bytes) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelFileError(f"its {CONFIG} is not valid JSON ({error})") from error
    if not isinstance(config, dict) or "class_name" not in config or "config" not in config:
        raise ModelFileError(f"its {CONFIG} does not describe a Keras object")
    return config


def _count_stored(data: bytes) -> int:
    """Counts the values in an HDF5 weights file, refusing what only pretends to be stored."""
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            # h5py cannot pass on what a visitor raises, so the visits only collect.
            links: list[tuple[str, object]] = []
            items: list[tuple[str, object]] = []
            file.visititems_links(lambda *link: links.append(link))
            file.visititems(lambda *item: items.append(item))
            _check_links(links)
            datasets = {name: item for name, item in items if isinstance(item, h5py.Dataset)}
            return _count_values(datasets, len(data))
    except (OSError, RuntimeError, KeyError) as error:
        raise ModelFileError(f"its {WEIGHTS} is truncated or corrupt ({error})") from error


def _check_links(links: list[tuple[str, object]]) -> None:
    # A soft or external link would let Keras read another file.
    for name, link in links:
        if not isinstance(link, h5py.HardLink):
            raise ModelFileError(f"its weights link to another place at {name!r}")


def _count_values(datasets: dict[str, h5py.Dataset], file_size: int) -> int:
    """Returns the number of values, the optimizer's not counted, if the file can hold them all."""
    total_bytes = 0
    values = 0
    for name, dataset in datasets.items():
        total_bytes += _stored_bytes(name, dataset)
        if total_bytes > file_size:
            raise ModelFileError("its weights claim more bytes than the file has")
        if not name.startswith("optimizer/"):
            values += math.prod(dataset.shape)
    return values


def _stored_bytes(name: str, dataset: h5py.Dataset) -> int:
    """Returns the bytes of a dataset, which must be stored as Keras does: whole, uncompressed."""
    if dataset.shape is None or dataset.dtype.hasobject:
        raise ModelFileError(f"its weight {name!r} is not an array of numbers")
    # Chunks may be compressed: a small file could then claim any number of values.
    if dataset.external or dataset.is_virtual or dataset.chunks is not None:
        raise ModelFileError(f"its weight {name!r} is not stored in one piece inside the file")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    # HDF5 stores nothing for a dataset that was only declared, and reads it as zeros.
    if dataset.id.get_storage_size() < size:
        raise ModelFileError(f"its weight {name!r} claims {size} bytes that are not stored")
    return size
