"""What the exports to formats other than a SavedModel share."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from keras_branch_prune.common import require_tensorflow
from keras_branch_prune.exporting.inference_form import inference_form
from keras_branch_prune.exporting.serving import Names, serving_function, serving_names
from keras_branch_prune.exporting.verification import ExportError, verify_reloaded
from keras_branch_prune.files import atomic_write
from keras_branch_prune.graph import unique_name

_LONGEST_REASON = 1000


@dataclasses.dataclass(frozen=True)
class Format:
    """A format that a model can be converted to.

    Args:
        title: What messages call it.
        extra: The extra of this package that installs what it needs.
        backend: What runs it: a runtime of `verify` and a backend of `benchmark`.
        converter: The modules that write it.
        runtime: The modules that run it.
        tolerances: The bar of the verification by the value of `quantize`.
    """

    title: str
    extra: str
    backend: str
    converter: tuple[str, ...]
    runtime: tuple[str, ...]
    tolerances: Mapping[str | None, float]


@dataclasses.dataclass(frozen=True)
class Served:
    """A model as converters take it.

    Args:
        function: A concrete TensorFlow function that takes the inputs by name and returns a dict.
        variables: Its variables.
        names: The names of its inputs and outputs.
    """

    function: Any
    variables: list[Any]
    names: Names


def export_converted(
    model: keras.Model,
    target: Path,
    format: Format,
    convert: Callable[[Served, Path], None],
    verify: bool,
    quantize: str | None,
) -> Path:
    """Converts a model and verifies the result, which takes its place only then.

    Args:
        model: A built functional or Sequential model.
        target: Where to.
        format: The format.
        convert: Called with the model in inference form and where to write.
        verify: Whether to compare the result, run in a fresh process, with the model.
        quantize: A key of `format.tolerances`.

    Returns:
        `target`.

    Raises:
        ExportError: If it cannot be converted, or the verification fails.
        ImportError: If a package is missing.
        ValueError: If `quantize` is none of the options.
        RuntimeError: If Keras does not run on TensorFlow.
    """
    if quantize not in format.tolerances:
        options = ", ".join(map(repr, format.tolerances))
        raise ValueError(f"`quantize` must be one of {options}. Received: quantize={quantize!r}")
    require_tensorflow(f"The export to {format.title}")
    needed = (*format.converter, *(format.runtime if verify else ()))
    require_packages(f"The export to {format.title}", needed, format.extra)
    served = _served(inference_form(model))
    with atomic_write(target) as temporary:
        with _reasons(model.name, format.title):
            convert(served, temporary)
        if verify:
            tolerance = format.tolerances[quantize]
            verify_reloaded(model, served.names, temporary, format.backend, tolerance)
    return target


def file_target(path: str | os.PathLike[str], suffix: str) -> Path:
    """Returns the path of a file to write, or raises unless it has this suffix."""
    target = Path(path)
    if target.suffix != suffix:
        raise ValueError(f"`path` must end in '{suffix}'. Received: '{target}'")
    if target.is_dir():
        raise FileExistsError(f"`path` must be a file. Received: the folder '{target}'")
    return target


def require_packages(what: str, modules: Iterable[str], extra: str) -> None:
    """Raises an ImportError that names the extra to install if one of the modules is missing."""
    missing = [x for x in dict.fromkeys(modules) if importlib.util.find_spec(x) is None]
    if missing:
        raise ImportError(
            f"{what} needs the missing {', '.join(missing)}: "
            f"pip install keras_branch_prune[{extra}]"
        )


def _served(form: keras.Model) -> Served:
    names = serving_names(form)
    # Most formats do not allow an output to have the name of an input.
    taken = set(names.inputs)
    names = Names(names.inputs, [unique_name(name, taken) for name in names.outputs])
    function, variables = serving_function(form, names, freeze=False, portable=True)
    return Served(function, variables or [], names)


@contextmanager
def _reasons(model: str, title: str) -> Iterator[None]:
    """Turns whatever a converter raises into an ExportError."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
        raise ExportError(
            f"'{model}' could not be converted to {title}; nothing was written. {reason}"
        ) from error


def folder_target(path: str | os.PathLike[str], file: str, title: str) -> Path:
    """Returns the path of a folder to write, or raises if something else is there.

    Args:
        path: The folder.
        file: A file that shows that a folder is an older export.
        title: What messages call such a folder.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"`path` must be a folder. Received: the file '{target}'")
    if target.exists() and any(target.iterdir()) and not (target / file).is_file():
        raise FileExistsError(
            f"`path` must be new, empty or {title}, which is replaced. Received: the folder "
            f"'{target}' with other content"
        )
    return target
