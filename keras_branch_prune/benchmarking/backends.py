"""What the backends of `benchmark` load, and how models are made ready for them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_branch_prune.analysis import Costs, InputShape, model_costs
from keras_branch_prune.exporting import Format, export_saved_model, fits_frozen, require_packages
from keras_branch_prune.exporting import (
    litert as export_litert,
)
from keras_branch_prune.exporting import (
    onnx as export_onnx,
)
from keras_branch_prune.exporting import (
    openvino as export_openvino,
)
from keras_branch_prune.files import load_model, save_model

_Export = Callable[[keras.Model, Path], object]

_DEVICES = ("cpu", "gpu")


@dataclasses.dataclass(frozen=True)
class Backend:
    """One way to run a model.

    Args:
        suffix: What the names of exported models end in.
        marker: The file that shows that a folder is such a model; "" if a model is one file.
        devices: What it runs on.
        format: What the export to it needs; `None` if it needs no other package.
        export: Writes a model to a path; `None` for a SavedModel, which is written alike for all.
    """

    suffix: str
    marker: str = ""
    devices: tuple[str, ...] = ("cpu",)
    format: Format | None = None
    export: _Export | None = None


BACKENDS: Mapping[str, Backend] = {
    "keras": Backend(".keras", devices=_DEVICES, export=save_model),
    "saved_model": Backend("", "saved_model.pb", _DEVICES),
    "litert": Backend(
        ".tflite",
        format=export_litert.FORMAT,
        export=lambda model, path: export_litert.export_litert(model, path, verify=False),
    ),
    "onnxruntime": Backend(
        ".onnx",
        format=export_onnx.FORMAT,
        export=lambda model, path: export_onnx.export_onnx(model, path, verify=False),
    ),
    "openvino": Backend(
        "-openvino",
        "model.xml",
        format=export_openvino.FORMAT,
        export=lambda model, path: export_openvino.export_openvino(model, path, verify=False),
    ),
}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A variant that can be measured.

    Args:
        costs: Its costs, as far as they can be known.
        paths: Backend → what that loads.
    """

    costs: Costs | None
    paths: Mapping[str, Path]

    def size_mib(self, backend: str) -> float:
        """Returns the size of all files that a backend loads, MiB."""
        path = self.paths[backend]
        files = path.rglob("*") if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file()) / 2**20


def prepared_models(
    models: Mapping[str, Any],
    backends: Sequence[str],
    scratch: Path,
    input_shape: InputShape | None,
) -> dict[str, Prepared]:
    """Exports the models that are not exported yet, once per backend.

    Args:
        models: Name → model or path, see `benchmark`.
        backends: Keys of `BACKENDS`.
        scratch: A folder for the exported models.
        input_shape: Shape of one sample, see `benchmark`.

    Returns:
        Name → variant, in the order of `models`.

    Raises:
        ImportError: If a package is missing.
        TypeError: If a value is neither a Keras model nor a path.
        FileNotFoundError: If a path is no model.
        ValueError: If a model cannot be exported, or a path is for none of the backends.
        ExportError: If a model cannot be converted for a backend.
    """
    exported = {name: _backend_of(name, model, backends) for name, model in models.items()}
    _require_backends(backends, converters=None in exported.values())
    loaded = {
        name: model if isinstance(model, keras.Model) else _loaded(model)
        for name, model in models.items()
        if exported[name] is None
    }
    costs = {name: model_costs(model, input_shape) for name, model in loaded.items()}
    freeze = all(map(fits_frozen, loaded.values()))
    prepared = {}
    for index, name in enumerate(models):
        backend = exported[name]
        if backend is not None:
            prepared[name] = Prepared(None, {backend: Path(models[name])})
            continue
        paths = {x: scratch / f"{index}{BACKENDS[x].suffix}" for x in backends}
        if "keras" in paths and not isinstance(models[name], keras.Model):
            paths["keras"] = Path(models[name])
        for x, path in paths.items():
            if not path.exists():
                _export(loaded[name], x, path, freeze)
        prepared[name] = Prepared(costs[name], paths)
    return prepared


def _export(model: keras.Model, backend: str, path: Path, freeze: bool) -> None:
    export = BACKENDS[backend].export
    if export is None:
        export_saved_model(model, path, verify=False, freeze=freeze)
    else:
        export(model, path)


def _backend_of(name: str, model: Any, backends: Sequence[str]) -> str | None:
    """Returns the backend of an exported model; `None` for what is still to be exported."""
    if not isinstance(model, (str, os.PathLike)):
        return None
    path = Path(model)
    for key, backend in BACKENDS.items():
        found = (path / backend.marker).is_file() if backend.marker else _is_file(path, backend)
        if found and key != "keras":
            if key not in backends:
                raise ValueError(
                    f"'{name}' can only be run by '{key}', which must be one of `backends`. "
                    f"Received: '{path}', backends={tuple(backends)}"
                )
            return key
    return None


def _is_file(path: Path, backend: Backend) -> bool:
    return path.suffix == backend.suffix and path.is_file()


def _require_backends(backends: Sequence[str], converters: bool) -> None:
    for name in backends:
        format = BACKENDS[name].format
        if format is not None:
            modules = (*(format.converter if converters else ()), *format.runtime)
            require_packages(f"The backend '{name}'", modules, format.extra)


def _loaded(model: Any) -> keras.Model:
    """Returns a model; what is not a path is left to what asks for its costs."""
    if not isinstance(model, (str, os.PathLike)):
        return model
    path = Path(model)
    if not _is_file(path, BACKENDS["keras"]):
        raise FileNotFoundError(
            "A path in `models` must be the folder of a SavedModel or of an OpenVINO model, or a "
            f"`.keras`, `.tflite` or `.onnx` file. Received: '{path}'"
        )
    return load_model(path, compile=False)
