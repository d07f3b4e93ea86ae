"""What a format is, and what the exports to formats other than a SavedModel share."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_branch_prune.common import require_tensorflow
from keras_branch_prune.exporting.inference_form import inference_form
from keras_branch_prune.exporting.serving import SignatureNames, serving_function, serving_names
from keras_branch_prune.exporting.verification import ExportError, verify_reloaded
from keras_branch_prune.files import atomic_write
from keras_branch_prune.graph import unique_name

_LONGEST_REASON = 1000


@dataclasses.dataclass(frozen=True)
class Format:
    """A format that models are written in and run from: a row of `FORMATS`.

    A model in it is one file, known by its suffix, or a folder, known by a file in it.

    Args:
        title: What messages call the format, such as "ONNX".
        noun: What messages call a model in it, such as "an `.onnx` file".
        runtime: What runs it: a key of `runtimes.table.RUNTIMES`.
        export: Writes a model to a path without verifying it. The third argument is the list of all
            models that `benchmark` compares, this one among them: a choice that depends on size,
            such as that between constants and variables, must be the same for all of them.
        load: Reads a Keras model from a path; `None` if the format does not allow it.
        suffix: What the name of the file ends in; "" for a folder.
        marker: The file by which a folder is known as such a model; "" for a file.
        devices: The devices that the runtime supports, of "cpu" and "gpu".
        extra: The extra of this package that installs the modules below.
        converter_modules: The modules that writing a model needs.
        runtime_modules: The modules that running a model needs.
        tolerances: The tolerance of the verification, by the value of `quantize`.
    """

    title: str
    noun: str
    runtime: str
    export: Callable[[keras.Model, Path, Sequence[keras.Model]], object]
    load: Callable[[Path], keras.Model] | None = None
    suffix: str = ""
    marker: str = ""
    devices: tuple[str, ...] = ("cpu",)
    extra: str = ""
    converter_modules: tuple[str, ...] = ()
    runtime_modules: tuple[str, ...] = ()
    tolerances: Mapping[str | None, float] = dataclasses.field(default_factory=lambda: {None: 0.0})

    def recognises(self, path: Path) -> bool:
        """Returns whether a model in this format is at the path, judged by names only."""
        if self.marker:
            return (path / self.marker).is_file()
        return path.suffix == self.suffix and path.is_file()

    def target(self, path: str | os.PathLike[str]) -> Path:
        """Returns the path of a model to write, checked.

        Raises:
            ValueError: If it has another suffix than the format.
            FileExistsError: If there is something else there than a model in this format.
        """
        target = Path(path)
        if self.marker:
            self._check_folder(target)
        elif target.suffix != self.suffix:
            raise ValueError(f"`path` must end in '{self.suffix}'. Received: '{target}'")
        elif target.is_dir():
            raise FileExistsError(f"`path` must be a file. Received: the folder '{target}'")
        return target

    def _check_folder(self, target: Path) -> None:
        if target.exists() and not target.is_dir():
            raise FileExistsError(f"`path` must be a folder. Received: the file '{target}'")
        if target.exists() and any(target.iterdir()) and not self.recognises(target):
            raise FileExistsError(
                f"`path` must be new, empty or {self.noun}, which is replaced. Received: the "
                f"folder '{target}' with other content"
            )

    def require_modules(self, what: str, *, write: bool, run: bool) -> None:
        """Raises unless the modules that a task needs are installed.

        Args:
            what: The task, as the subject of the message.
            write: Whether it writes models.
            run: Whether it runs them.

        Raises:
            ImportError: If one is missing; the message names the extra to install.
        """
        modules = self.converter_modules if write else ()
        modules += self.runtime_modules if run else ()
        missing = [x for x in dict.fromkeys(modules) if importlib.util.find_spec(x) is None]
        if missing:
            raise ImportError(
                f"{what} needs the missing {', '.join(missing)}: "
                f"pip install keras_branch_prune[{self.extra}]"
            )


@dataclasses.dataclass(frozen=True)
class ConverterInput:
    """A model as converters take it.

    Args:
        function: A concrete TensorFlow function that takes the inputs by name and returns a dict.
        variables: Its variables.
        names: The names of its inputs and outputs.
    """

    function: Any
    variables: list[Any]
    names: SignatureNames


def export_converted(
    model: keras.Model,
    path: str | os.PathLike[str],
    format: Format,
    convert: Callable[[ConverterInput, Path], None],
    verify: bool,
    quantize: str | None = None,
) -> Path:
    """Converts a model and verifies the result, which is moved to `path` only after that.

    Args:
        model: A built functional or Sequential model.
        path: The file or folder to write.
        format: The format.
        convert: Writes the model, given in inference form, to a path.
        verify: Whether to compare the result, run in a fresh process, with the model.
        quantize: A key of `format.tolerances`.

    Returns:
        The path.

    Raises:
        ExportError: If it cannot be converted, or the verification fails.
        FileExistsError: If `path` is something else than a model in this format.
        ImportError: If a package is missing.
        ValueError: If `path` has another suffix, or `quantize` is none of the options.
        RuntimeError: If Keras does not run on TensorFlow.
    """
    target = format.target(path)
    if quantize not in format.tolerances:
        options = ", ".join(map(repr, format.tolerances))
        raise ValueError(f"`quantize` must be one of {options}. Received: quantize={quantize!r}")
    require_tensorflow(f"The export to {format.title}")
    format.require_modules(f"The export to {format.title}", write=True, run=verify)
    source = _make_converter_input(inference_form(model))
    with atomic_write(target) as temporary:
        try:
            convert(source, temporary)
        # Converters raise anything, from KeyError to classes of their own.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
            raise ExportError(
                f"'{model.name}' could not be converted to {format.title}; nothing was written. "
                f"{reason}"
            ) from error
        if verify:
            tolerance = format.tolerances[quantize]
            verify_reloaded(model, source.names, temporary, format.runtime, tolerance)
    return target


def _make_converter_input(form: keras.Model) -> ConverterInput:
    names = serving_names(form)
    # Most formats do not allow an output to have the name of an input.
    taken = set(names.inputs)
    names = SignatureNames(names.inputs, [unique_name(name, taken) for name in names.outputs])
    function, variables = serving_function(form, names, freeze=False, portable=True)
    return ConverterInput(function, variables or [], names)
