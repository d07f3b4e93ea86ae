"""The variants of a benchmark: models that are exported for every backend that is to run them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_branch_prune.analysis import Costs, InputShape, model_costs
from keras_branch_prune.exporting import FORMATS


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the models that are compared.

    Args:
        costs: Its parameters and MACs; `None` for an exported model.
        paths: Backend → the file or folder that it loads.
    """

    costs: Costs | None
    paths: Mapping[str, Path]

    def size_mib(self, backend: str) -> float:
        """Returns the size of all files that a backend loads, MiB."""
        path = self.paths[backend]
        files = path.rglob("*") if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file()) / 2**20


def export_models(
    models: Mapping[str, Any],
    backends: Sequence[str],
    scratch: Path,
    input_shape: InputShape | None,
) -> dict[str, Variant]:
    """Exports the models that are not exported yet, once per backend.

    Args:
        models: Name → model or path, see `benchmark`.
        backends: Keys of `FORMATS`.
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
    given = {name: _find_backend(name, model, backends) for name, model in models.items()}
    readable = [name for name, backend in given.items() if not backend or FORMATS[backend].load]
    for x in backends:
        FORMATS[x].require_modules(f"The backend '{x}'", write=bool(readable), run=True)
    loaded = {name: _load(models[name], given[name]) for name in readable}
    costs = {name: model_costs(model, input_shape) for name, model in loaded.items()}
    variants, compared = {}, list(loaded.values())
    for index, (name, backend) in enumerate(given.items()):
        paths = {backend: Path(models[name])} if backend else {}
        if name in loaded:
            # Numbered, for the name of a variant may hold what a path cannot.
            paths = {
                x: paths.get(x) or _export(loaded[name], x, scratch / f"{index}-{x}", compared)
                for x in backends
            }
        variants[name] = Variant(costs.get(name), paths)
    return variants


def _find_backend(name: str, model: Any, backends: Sequence[str]) -> str | None:
    """Returns the backend that runs the model at a path; `None` if `model` is no path."""
    if not isinstance(model, (str, os.PathLike)):
        return None
    path = Path(model)
    found = next((key for key, format in FORMATS.items() if format.recognises(path)), None)
    if found is None:
        nouns = ", ".join(format.noun for format in FORMATS.values())
        raise FileNotFoundError(f"A path in `models` must be one of: {nouns}. Received: '{path}'")
    if FORMATS[found].load is None and found not in backends:
        raise ValueError(
            f"'{name}' can only be run by '{found}', which must be one of `backends`. "
            f"Received: '{path}', backends={tuple(backends)}"
        )
    return found


def _load(model: Any, backend: str | None) -> keras.Model:
    """Returns a model, read if it is given as a path; `model_costs` refuses all but models."""
    load = FORMATS[backend].load if backend else None
    return load(Path(model)) if load else model


def _export(
    model: keras.Model, backend: str, target: Path, compared: Sequence[keras.Model]
) -> Path:
    """Writes a model for a backend; returns its path, which is `target` with a suffix."""
    format = FORMATS[backend]
    path = target.with_name(target.name + format.suffix)
    format.export(model, path, compared)
    return path
