"""Loads `.keras` files from untrusted sources, and saves them atomically."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_branch_prune.common import require_integer, safe_mode_scope
from keras_branch_prune.files.archive import ModelFileError, read_archive
from keras_branch_prune.files.atomic import atomic_write
from keras_branch_prune.files.untrusted import check_config, count_values

_LONGEST_REASON = 1000


def load_model(
    path: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
    max_parameters: int | None = None,
    *,
    compile: bool = True,
) -> keras.Model:
    """Loads a `.keras` file without trusting it.

    The file cannot run code, use a class that is neither Keras' nor yours, read another file, or
    allocate more memory than the weights stored in it need. That holds even after
    `keras.config.enable_unsafe_deserialization()`.

    Args:
        path: The `.keras` file.
        custom_objects: Your classes and functions by name, beside those registered with
            `keras.saving.register_keras_serializable`.
        max_parameters: The largest number of values in the model's variables to accept; None
            for as many as the file stores.
        compile: Whether to restore the optimizer, loss and metrics too, if the file has them.

    Returns:
        The model.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is a directory.
        ModelFileError: It is not a Keras model, is corrupt, or is not safe to load.
        ValueError: `max_parameters` is not a positive integer.

    Example:
        >>> keras_branch_prune.save_model(model, "model.keras")
        >>> model = keras_branch_prune.load_model("model.keras", compile=False)
    """
    if max_parameters is not None:
        require_integer("max_parameters", max_parameters, at_least=1)
    path = _require_file(path)
    objects = dict(custom_objects or {})
    try:
        _check_model_file(path, objects, max_parameters, compile)
        with safe_mode_scope():
            return keras.saving.load_model(path, custom_objects=objects, compile=compile)
    # On a broken architecture Keras raises whatever it runs into.
    except Exception as error:
        raise ModelFileError(f"Cannot load the model file '{path}': {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Returns the innermost message; Keras nests them, each with the whole architecture."""
    text = str(error).rsplit("Exception encountered: ", maxsplit=1)[-1]
    return text[:_LONGEST_REASON] or type(error).__name__


def _require_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"Expected a `.keras` file. Received a directory: '{path}'")
    if not path.exists():
        raise FileNotFoundError(f"There is no model file '{path}'")
    _require_suffix(path)
    return path


def _require_suffix(path: Path) -> None:
    if path.suffix != ".keras":
        raise ModelFileError(
            f"Argument `path` must name a file that ends in `.keras`. Received: '{path}'"
        )


def _check_model_file(
    path: Path, custom_objects: dict[str, Any], max_parameters: int | None, compile: bool
) -> None:
    archive = read_archive(path)
    # What is not restored is not looked at: an own loss does not hinder loading without it.
    config = archive.config if compile else {**archive.config, "compile_config": None}
    check_config(config, custom_objects)
    count_values(config, custom_objects, archive.stored_values, max_parameters)


def save_model(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Saves a model as a `.keras` file that is either complete or not there.

    Args:
        model: The model.
        path: The file to write; must end in `.keras`. An existing file is replaced.

    Raises:
        ModelFileError: `path` does not end in `.keras`.

    Example:
        >>> keras_branch_prune.save_model(model, "model.keras")
    """
    _require_suffix(Path(path))
    with atomic_write(path) as temporary:
        model.save(temporary)
