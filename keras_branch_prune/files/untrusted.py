"""Checks the architecture of a model file before Keras builds it."""

import copy
import math
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras

from keras_branch_prune.common import object_sharing_scope, record_variables, scoped_objects
from keras_branch_prune.files.archive import ModelFileError

# Where Keras keeps what models are made of. Its other modules read files and run code.
_PARTS = (
    "activations|constraints|dtype_policies|initializers|losses|metrics|ops|optimizers|"
    "quantizers|random|regularizers"
)
_FUNCTION_MODULES = re.compile(rf"builtins|keras\.({_PARTS})(\.\w+)*")
_CLASS_MODULES = re.compile(
    rf"builtins|keras|keras\.(src\.)?({_PARTS}|layers|models|trainers)(\.\w+)*"
)
# The one class outside them that a stock Keras model, ConvNeXt, is made of.
_APPLICATION_CLASSES = frozenset({("keras.src.applications.convnext", "LayerScale")})
# Classes that run or import code from the file, or from another file.
_CODE = frozenset(
    {"Lambda", "TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"}
    | {"__lambda__", "__typespec__"}
)
_PLAIN_DTYPE = re.compile(r"[a-z]+[0-9]{0,3}(_e\dm\d(fn)?)?")
# Values that Keras does not store, such as the states of dropout's random generators.
_UNSTORED_VALUES = 2**16


def check_config(config: Mapping[str, Any], custom_objects: Mapping[str, Any]) -> None:
    """Refuses an architecture that names anything but Keras' and the caller's own classes.

    Args:
        config: The parsed `config.json`.
        custom_objects: The caller's classes and functions by name.

    Raises:
        ModelFileError: It holds a Lambda or another carrier of code, an unknown class or
            function, or refers to another file.
    """
    known = {
        **custom_objects,
        **keras.saving.get_custom_objects(),
        **scoped_objects(),
    }
    for entry in _walk_mappings(config):
        if "class_name" in entry:
            _check_class(entry, known)
        if isinstance(entry.get("vocabulary"), str):
            raise ModelFileError(
                f"a layer reads its vocabulary from the file {entry['vocabulary']!r}"
            )


def _walk_mappings(config: object) -> Iterator[Mapping[str, Any]]:
    """Yields every mapping inside a parsed JSON value."""
    # Not by recursion: a file may be nested deeper than Python's stack.
    stack = [config]
    while stack:
        item = stack.pop()
        if isinstance(item, Mapping):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _check_class(entry: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    class_name, module = entry["class_name"], entry.get("module")
    is_function = class_name == "function"
    name = entry.get("config") if is_function else class_name
    if not isinstance(name, str) or not isinstance(module, str | None):
        raise ModelFileError(f"a class or function has no proper name. Received: {name!r}")
    # Keras looks a class up by its registered name, a function by its plain one.
    if (name if is_function else entry.get("registered_name", name)) in known:
        return
    # Only by this exact module: others of `keras.src.applications` download weights.
    if (module, class_name) in _APPLICATION_CLASSES:
        return
    if name in _CODE:
        raise ModelFileError(f"it contains {name!r}, which can run code of the file's author")
    if name in ("__tensor__", "__numpy__"):
        _check_dtype(entry["config"])
    modules = _FUNCTION_MODULES if is_function else _CLASS_MODULES
    # The modules of classes also hold functions, in lower case.
    is_class_name = is_function or name.startswith("__") or name[:1].isupper()
    if not is_class_name or (module is not None and not modules.fullmatch(module)):
        raise ModelFileError(
            f"it needs {name!r} from the module {module!r}, which is no building block of Keras. "
            "If you trust it, pass it in custom_objects or import the package that registers it"
        )


def _check_dtype(config: object) -> None:
    dtype = config.get("dtype") if isinstance(config, Mapping) else None
    if not isinstance(dtype, str) or not _PLAIN_DTYPE.fullmatch(dtype):
        raise ModelFileError(f"it contains a constant of the type {dtype!r}")


def count_values(
    config: Mapping[str, Any],
    custom_objects: Mapping[str, Any],
    stored_values: int,
    max_parameters: int | None = None,
) -> int:
    """Counts the values of all variables that building an architecture would create.

    The architecture is built for its shapes only: no variable is allocated. It is built in a
    thread of its own, because Keras keeps its list of such variables per thread.

    Args:
        config: The parsed `config.json`, already checked by `check_config`.
        custom_objects: The caller's classes and functions by name.
        stored_values: How many values the file's weights hold.
        max_parameters: The largest number of values to accept, or None.

    Returns:
        The number of values: trained ones, statistics and states of random generators.

    Raises:
        ModelFileError: The variables have more values than allowed, or more than are stored.
    """
    counter = _Counter(stored_values, max_parameters)
    objects = {**custom_objects, **scoped_objects()}
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(_build_shapes, config, objects, counter).result()
    # Once more, as a layer may have caught the error.
    counter.check()
    return counter.total


def _build_shapes(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any], counter: "_Counter"
) -> None:
    record_variables(counter)
    # Deserialization empties the mapping it is given. The optimizer does not matter here.
    architecture = {**copy.deepcopy(dict(config)), "compile_config": None}
    scope = keras.StatelessScope(initialize_variables=False)
    with scope, object_sharing_scope():
        keras.saving.deserialize_keras_object(architecture, custom_objects=custom_objects)


class _Counter(list):
    """The list to which Keras appends variables without values; raises when they grow too many.

    Keras appends each new variable before anything asks for its value, so an oversized one is
    refused before it can be allocated.
    """

    def __init__(self, stored_values: int, max_parameters: int | None) -> None:
        super().__init__()
        self.total = 0
        self._stored = stored_values
        self._maximum = max_parameters

    def append(self, variable: keras.Variable) -> None:
        self.total += math.prod(variable.shape)
        self.check()
        super().append(variable)

    def check(self) -> None:
        if self._maximum is not None and self.total > self._maximum:
            raise ModelFileError(
                f"its variables have at least {self.total} values, more than "
                f"max_parameters={self._maximum}"
            )
        if self.total > self._stored + _UNSTORED_VALUES:
            raise ModelFileError(
                f"its variables claim at least {self.total} values, but only {self._stored} "
                "are stored: it is corrupt or hostile"
            )
