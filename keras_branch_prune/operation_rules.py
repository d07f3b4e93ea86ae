"""The rules of `keras.ops` and Python operators that stand as nodes in a model's graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_branch_prune.graph import Unit
from keras_branch_prune.rule_kinds import (
    Channelwise,
    Elementwise,
    Permutation,
    Reduction,
    Reshaping,
    Rule,
)

_UNARY = (
    *("abs", "absolute", "cast", "celu", "ceil", "cos", "elu", "erf", "exp", "expm1", "floor"),
    *("gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "log"),
    *("log1p", "log_sigmoid", "negative", "reciprocal", "relu", "relu6", "round", "rsqrt"),
    *("selu", "sigmoid", "sign", "silu", "sin", "soft_shrink", "softplus", "softsign"),
    *("sparse_plus", "sparse_sigmoid", "sqrt", "square", "squareplus", "stop_gradient", "tanh"),
    *("tanh_shrink", "threshold"),
)
_BINARY = (
    *("add", "divide", "floor_divide", "maximum", "minimum", "mod", "multiply", "power"),
    *("subtract", "true_divide"),
)
_REDUCTIONS = ("amax", "amin", "max", "mean", "min", "sum", "std", "var")


def operation_rules() -> dict[type, Rule]:
    """Returns the rule of every operation that is known, by its class."""
    rules: dict[type, Rule] = {}
    _add(rules, _UNARY, Channelwise(), _call_unary)
    _add(rules, ("clip",), Channelwise(), lambda clip: clip(_symbol(), 0.0, 1.0))
    _add(rules, _BINARY, Elementwise(), lambda binary: binary(_symbol(), _symbol()))
    _add(rules, _REDUCTIONS, Reduction(), _call_unary)
    _add(rules, ("reshape",), Reshaping("newshape"), lambda op: op(_symbol(), (-1, 3)))
    _add(rules, ("transpose",), Permutation(_transposed_axes), _call_unary)
    return rules


def _add(
    rules: dict[type, Rule], names: tuple[str, ...], rule: Rule, call: Callable[[Any], Any]
) -> None:
    """Enters the rule for the classes behind some functions of `keras.ops`.

    The classes have no public name: they are found by calling the functions on symbols. Functions
    that this version of Keras does not have are passed over.
    """
    for name in names:
        function = getattr(ops, name, None)
        if function is not None:
            rules[type(call(function)._keras_history.operation)] = rule


def _symbol() -> keras.KerasTensor:
    return keras.KerasTensor((2, 3), dtype="float32")


def _call_unary(function: Any) -> Any:
    if function is ops.cast:
        return function(_symbol(), "float16")
    if function is ops.threshold:
        return function(_symbol(), 0.0, 0.0)
    return function(_symbol())


def _transposed_axes(unit: Unit, rank: int) -> tuple[int, ...]:
    axes = unit.config["axes"]
    return tuple(range(rank))[::-1] if axes is None else tuple(a % rank for a in axes)
