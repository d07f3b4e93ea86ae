"""The rules of `keras.ops` and Python operators that stand as nodes in a model's graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_branch_prune.channels import Layout
from keras_branch_prune.common import operation_of
from keras_branch_prune.graph import Unit, Value
from keras_branch_prune.rules.base import Rule
from keras_branch_prune.rules.channelwise import Channelwise
from keras_branch_prune.rules.joining import Concatenation, Elementwise
from keras_branch_prune.rules.shapes import Expansion, Permutation, Reduction, Reshaping, Squeezing

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
    _add(rules, ("concatenate",), Concatenation(), lambda op: op([_symbol(), _symbol()]))
    _add(rules, ("squeeze",), Squeezing(), lambda op: op(keras.KerasTensor((2, 1)), 1))
    _add(rules, ("expand_dims",), Expansion(), lambda op: op(_symbol(), 1))
    pools = ("max_pool", "average_pool")
    _add(rules, pools, Channelwise(_data_format_axis), lambda op: op(_image(), 2))
    _add(rules, ("pad",), Channelwise(_pads_positions), lambda op: op(_symbol(), 1))
    resize = operation_of(ops.image.resize(_image(), (2, 2)))
    rules[type(resize)] = Channelwise(_data_format_axis)
    return rules


def _add(
    rules: dict[type, Rule], names: tuple[str, ...], rule: Rule, call: Callable[[Any], Any]
) -> None:
    """Enters a rule for the classes of the operations that some functions of `keras.ops` make.

    These classes have no public name: they are found by calling the functions on symbolic tensors.
    Functions that this version of Keras lacks are left out.
    """
    for name in names:
        function = getattr(ops, name, None)
        if function is not None:
            rules[type(operation_of(call(function)))] = rule


def _symbol() -> keras.KerasTensor:
    return keras.KerasTensor((2, 3), dtype="float32")


def _image() -> keras.KerasTensor:
    return keras.KerasTensor((2, 4, 4, 3), dtype="float32")


def _call_unary(function: Any) -> Any:
    if function is ops.cast:
        return function(_symbol(), "float16")
    if function is ops.threshold:
        return function(_symbol(), 0.0, 0.0)
    return function(_symbol())


def _transposed_axes(unit: Unit, rank: int) -> tuple[int, ...]:
    axes = unit.config["axes"]
    return tuple(range(rank))[::-1] if axes is None else tuple(a % rank for a in axes)


def _data_format_axis(unit: Unit, value: Value, layout: Layout) -> bool:
    data_format = unit.config["data_format"] or keras.config.image_data_format()
    return layout.axis == (1 if data_format == "channels_first" else len(value.shape) - 1)


def _pads_positions(unit: Unit, value: Value, layout: Layout) -> bool:
    """Whether nothing is added along the channel axis."""
    widths = unit.config["pad_width"]
    return np.ndim(widths) == 2 and len(widths) > 1 and not any(widths[layout.axis])
