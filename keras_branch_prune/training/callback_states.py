"""State of callbacks: what it consists of, and the file it is kept in."""

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
        """Returns all that the callback must know to go on."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_state` of a like callback returned."""
        ...


def write_states(path: str | os.PathLike[str], callbacks: Sequence[Stateful]) -> None:
    """Writes the states of callbacks to an `.npz` file, atomically.

    Args:
        path: The file; must end in `.npz`.
        callbacks: The callbacks, in an order that stays.

    Raises:
        TypeError: If a state holds something else than the protocol allows.
    """
    arrays: list[np.ndarray] = []
    states = [{"class": _class(c), "state": _pack(c.get_state(), arrays)} for c in callbacks]
    entries: dict[str, Any] = {str(n): _as_bits(array) for n, array in enumerate(arrays)}
    entries[_TEXT] = np.array(json.dumps(states))
    with atomic_write(path) as temporary:
        np.savez(temporary, **entries)


def read_states(path: str | os.PathLike[str], callbacks: Sequence[Stateful]) -> None:
    """Hands callbacks the states that `write_states` has written.

    Args:
        path: The file. Nothing in it can run code.
        callbacks: Callbacks of the same classes in the same order.

    Raises:
        ValueError: If the callbacks are others; none has been touched then.
    """
    with np.load(path, allow_pickle=False) as file:
        saved = json.loads(str(file[_TEXT]))
        expected, received = [row["class"] for row in saved], [_class(c) for c in callbacks]
        if expected != received:
            raise ValueError(
                f"`callbacks` must be those of the backup '{os.fspath(path)}', {expected}. "
                f"Received: {received}"
            )
        states = [_unpack(row["state"], file) for row in saved]
    for callback, state in zip(callbacks, states, strict=True):
        callback.set_state(state)


def _class(callback: Stateful) -> str:
    return type(callback).__name__


def _pack(value: Any, arrays: list[np.ndarray]) -> Any:
    """Returns a state as JSON, in which arrays are named by their place in `arrays`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufcV":
        arrays.append(value)
        return {"array": str(len(arrays) - 1), "dtype": value.dtype.name}
    if isinstance(value, (list, tuple)):
        return {"list": [_pack(item, arrays) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _pack(item, arrays) for key, item in value.items()}}
    raise TypeError(
        "The state of a callback must consist of dicts with text as keys, lists, JSON scalars and "
        f"arrays of numbers. Received: {value!r}"
    )


def _unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    if "list" in value:
        return [_unpack(item, arrays) for item in value["list"]]
    if "dict" in value:
        return {key: _unpack(item, arrays) for key, item in value["dict"].items()}
    array, dtype = arrays[value["array"]], np.dtype(value["dtype"])
    return array if array.dtype == dtype else array.view(dtype)


def _as_bits(array: np.ndarray) -> np.ndarray:
    """Returns the array as bits if NumPy cannot store its dtype, e.g. bfloat16."""
    return array if array.dtype.kind in "biufc" else array.view(f"u{array.dtype.itemsize}")
