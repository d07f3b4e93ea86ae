"""Writes the state of callbacks to a file and reads it back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from keras_branch_prune.files import atomic_write

_TEXT = "states"


@runtime_checkable
class Stateful(Protocol):
    """A callback whose state can be saved and restored.

    The state is a dict of JSON scalars, arrays of numbers, and dicts and lists of these.
    """

    def get_state(self) -> dict[str, Any]:
        """Returns all that a new callback of this class needs to continue."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Sets the state to what `get_state` of a callback of the same class returned."""
        ...


def write_states(path: str | os.PathLike[str], callbacks: Sequence[Stateful]) -> None:
    """Writes the states of callbacks to an `.npz` file, atomically.

    Args:
        path: The file; must end in `.npz`.
        callbacks: The callbacks, in the order in which `read_states` will be given them.

    Raises:
        TypeError: If a state holds something that `Stateful` does not allow.
    """
    arrays: list[np.ndarray] = []
    states = [{"class": _class_name(c), "state": _encode(c.get_state(), arrays)} for c in callbacks]
    entries: dict[str, Any] = {str(n): _as_bits(array) for n, array in enumerate(arrays)}
    # As an array of text, which NumPy reads without pickle.
    entries[_TEXT] = np.array(json.dumps(states))
    with atomic_write(path) as temporary:
        np.savez(temporary, **entries)


def read_states(path: str | os.PathLike[str], callbacks: Sequence[Stateful]) -> None:
    """Hands callbacks the states that `write_states` has written.

    Args:
        path: The file. Nothing in it can run code.
        callbacks: Callbacks of the same classes in the same order.

    Raises:
        ValueError: If the callbacks are others; none of them is changed then.
    """
    with np.load(path, allow_pickle=False) as file:
        saved = json.loads(str(file[_TEXT]))
        expected, received = [row["class"] for row in saved], [_class_name(c) for c in callbacks]
        if expected != received:
            raise ValueError(
                f"`callbacks` must be those of the backup '{os.fspath(path)}', {expected}. "
                f"Received: {received}"
            )
        states = [_decode(row["state"], file) for row in saved]
    for callback, state in zip(callbacks, states, strict=True):
        callback.set_state(state)


def _class_name(callback: Stateful) -> str:
    return type(callback).__name__


def _encode(value: Any, arrays: list[np.ndarray]) -> Any:
    """Returns a state as JSON; its arrays are appended to `arrays` and referred to by number."""
    # Lists and dicts are wrapped too, so that a dict of the state is not mistaken for an array's.
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufcV":
        arrays.append(value)
        return {"array": str(len(arrays) - 1), "dtype": value.dtype.name}
    if isinstance(value, (list, tuple)):
        return {"list": [_encode(item, arrays) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(item, arrays) for key, item in value.items()}}
    raise TypeError(
        "The state of a callback must consist of dicts with text as keys, lists, JSON scalars and "
        f"arrays of numbers. Received: {value!r}"
    )


def _decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    if "list" in value:
        return [_decode(item, arrays) for item in value["list"]]
    if "dict" in value:
        return {key: _decode(item, arrays) for key, item in value["dict"].items()}
    array, dtype = arrays[value["array"]], np.dtype(value["dtype"])
    return array if array.dtype == dtype else array.view(dtype)


def _as_bits(array: np.ndarray) -> np.ndarray:
    """Returns the array as bits if NumPy cannot store its dtype, e.g. bfloat16."""
    return array if array.dtype.kind in "biufc" else array.view(f"u{array.dtype.itemsize}")
