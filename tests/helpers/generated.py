"""Random model graphs for property-based tests.

A graph is drawn as a recipe, plain data that hypothesis can shrink and print.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from helpers.models import randomized
from hypothesis import strategies as st
from keras import layers, ops

_MIN_SIZE = 2

Recipe = tuple[tuple[str, tuple[int, int, int]], ...]
"""Steps by name, each with numbers that its choices are made with, modulo the number of options."""


def recipes(max_steps: int = 8) -> st.SearchStrategy[Recipe]:
    """Draws the recipe of a convolutional model with 2 to `max_steps` steps and a head."""
    numbers = st.tuples(*[st.integers(0, 11)] * 3)
    steps = st.tuples(st.sampled_from(sorted(_Grower.STEPS)), numbers)
    return st.lists(steps, min_size=2, max_size=max_steps).map(tuple)


def build_recipe(recipe: Recipe) -> keras.Model:
    """Returns the model of a recipe, with random weights."""
    grower = _Grower()
    for name, numbers in recipe:
        grower.grow(name, numbers)
    return randomized(grower.finish(), seed=len(recipe))


class _Grower:
    """Grows a model by applying steps to tensors that are there already."""

    STEPS = (
        *("conv", "fused_conv", "transposed", "dense", "normalize", "activate", "pool", "resize"),
        *("merge", "residual", "concat", "joined_concat", "shared_conv", "nested", "depthwise"),
        *("separable", "grouped", "layer_norm", "group_norm", "operators", "gate", "einsum"),
        *("attention", "permuted", "sliced", "gated", "unfolded"),
    )

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._input = keras.Input((8, 8, 3))
        self._tensors = [layers.Conv2D(4, 3, padding="same")(self._input)]

    def grow(self, name: str, numbers: Sequence[int]) -> None:
        self._numbers = list(numbers)
        tensor = self._choose(self._tensors[::-1])
        self._tensors.append(getattr(self, f"_{name}")(tensor))

    def finish(self) -> keras.Model:
        """Pools or flattens the last tensor and one more of them into a softmax head."""
        ends = [self._tensors[-1], self._choose(self._tensors)]
        pool = self._choose([layers.GlobalAveragePooling2D, layers.Flatten])
        x = layers.Concatenate()([pool()(tensor) for tensor in ends])
        return keras.Model(self._input, layers.Dense(3, activation="softmax")(x))

    def _choose(self, options: Sequence[Any]) -> Any:
        number = self._numbers.pop(0) if self._numbers else 0
        return options[number % len(options)]

    def _filters(self) -> int:
        return self._choose([3, 4, 6])

    def _conv(self, x: keras.KerasTensor) -> keras.KerasTensor:
        kernel, bias = self._choose([(1, True), (2, False), (3, True)])
        return layers.Conv2D(self._filters(), kernel, padding="same", use_bias=bias)(x)

    def _fused_conv(self, x: keras.KerasTensor) -> keras.KerasTensor:
        activation = self._choose(["relu", "tanh", "gelu", "softmax"])
        return layers.Conv2D(self._filters(), 3, padding="same", activation=activation)(x)

    def _transposed(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.Conv2DTranspose(self._filters(), 3, padding="same")(x)

    def _dense(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.Dense(self._filters())(x)

    def _normalize(self, x: keras.KerasTensor) -> keras.KerasTensor:
        scale, center = self._choose([True, False]), self._choose([True, False])
        return layers.BatchNormalization(scale=scale, center=center)(x)

    def _activate(self, x: keras.KerasTensor) -> keras.KerasTensor:
        kinds = [layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.Softmax]
        return self._choose(kinds)()(x)

    def _pool(self, x: keras.KerasTensor) -> keras.KerasTensor:
        if x.shape[1] <= _MIN_SIZE:
            return layers.Dropout(0.3)(x)
        kind = self._choose([layers.MaxPooling2D, layers.AveragePooling2D])
        return kind(2)(x)

    def _resize(self, x: keras.KerasTensor) -> keras.KerasTensor:
        if x.shape[1] < 8:
            return layers.UpSampling2D(2)(x)
        return layers.Cropping2D(1)(layers.ZeroPadding2D(1)(x))

    def _partner(self, x: keras.KerasTensor, same_channels: bool) -> keras.KerasTensor:
        size = len(x.shape) if same_channels else len(x.shape) - 1
        alike = [t for t in self._tensors if t.shape[:size] == x.shape[:size]]
        return self._choose(alike)

    def _merge(self, x: keras.KerasTensor) -> keras.KerasTensor:
        kind = self._choose([layers.Add, layers.Multiply, layers.Maximum])
        return kind()([x, self._partner(x, same_channels=True)])

    def _residual(self, x: keras.KerasTensor) -> keras.KerasTensor:
        y = layers.Conv2D(x.shape[-1], 3, padding="same")(layers.ReLU()(self._conv(x)))
        return layers.Add()([x, y])

    def _concat(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.Concatenate()([x, self._partner(x, same_channels=False)])

    def _joined_concat(self, x: keras.KerasTensor) -> keras.KerasTensor:
        whole = self._concat(x)
        plain = layers.Conv2D(whole.shape[-1], 1)(x)
        return layers.Add()(self._choose([[whole, plain], [plain, whole]]))

    def _shared_conv(self, x: keras.KerasTensor) -> keras.KerasTensor:
        layer = layers.Conv2D(x.shape[-1], 3, padding="same")
        return layer(layers.ReLU()(layer(x)))

    def _nested(self, x: keras.KerasTensor) -> keras.KerasTensor:
        block = keras.Sequential([keras.Input(x.shape[1:]), layers.Conv2D(4, 1), layers.ReLU()])
        return block(x)

    def _depthwise(self, x: keras.KerasTensor) -> keras.KerasTensor:
        multiplier = self._choose([1, 2])
        layer = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=multiplier)
        return layer(x)

    def _separable(self, x: keras.KerasTensor) -> keras.KerasTensor:
        multiplier, activation = self._choose([(1, "relu"), (2, None)])
        layer = layers.SeparableConv2D(
            self._filters(), 3, padding="same", depth_multiplier=multiplier, activation=activation
        )
        return layer(x)

    def _grouped(self, x: keras.KerasTensor) -> keras.KerasTensor:
        channels = x.shape[-1]
        groups = self._choose([g for g in (1, 2, 3, channels) if channels % g == 0])
        return layers.Conv2D(2 * groups, 3, padding="same", groups=groups)(x)

    def _layer_norm(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return self._choose([layers.LayerNormalization, layers.UnitNormalization])()(x)

    def _group_norm(self, x: keras.KerasTensor) -> keras.KerasTensor:
        groups = self._choose([g for g in (-1, 1, 2, 3) if g < 0 or x.shape[-1] % g == 0])
        return layers.GroupNormalization(groups)(x)

    def _operators(self, x: keras.KerasTensor) -> keras.KerasTensor:
        other = self._partner(x, same_channels=True)
        options = (
            lambda: ops.relu(x) * 0.5 - other,
            lambda: ops.maximum(x, 0.5 * other + 1.0),
            lambda: ops.tanh(x + other) / 2.0,
        )
        return self._choose(options)()

    def _gate(self, x: keras.KerasTensor) -> keras.KerasTensor:
        squeezed = ops.mean(x, axis=(1, 2))
        squeezed = layers.Dense(4, activation="relu")(squeezed)
        gate = layers.Dense(x.shape[-1], activation="sigmoid")(squeezed)
        return x * layers.Reshape((1, 1, x.shape[-1]))(gate)

    def _einsum(self, x: keras.KerasTensor) -> keras.KerasTensor:
        shape = (*x.shape[1:3], self._filters())
        return layers.EinsumDense("bhwc,cd->bhwd", output_shape=shape, bias_axes="d")(x)

    def _attention(self, x: keras.KerasTensor) -> keras.KerasTensor:
        heads, value_dim = self._choose([(2, None), (3, 2), (2, 4)])
        rows, columns, channels = x.shape[1:]
        tokens = layers.Reshape((rows * columns, channels))(x)
        attention = layers.MultiHeadAttention(heads, 2, value_dim=value_dim)
        tokens = layers.Add()([tokens, attention(tokens, tokens)])
        return layers.Reshape((rows, columns, channels))(tokens)

    def _permuted(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.transpose(layers.Permute((3, 1, 2))(x), (0, 2, 3, 1))

    def _sliced(self, x: keras.KerasTensor) -> keras.KerasTensor:
        start, stop = self._choose([0, 1, 2]), self._choose([None, -1, 4])
        positions = slice(None, -1 if x.shape[1] > _MIN_SIZE else None)
        part = x[:, positions, positions, start:stop]
        return part if part.shape[-1] > 1 else x

    def _gated(self, x: keras.KerasTensor) -> keras.KerasTensor:
        channels = x.shape[-1]
        parts = self._choose([n for n in (2, 3) if channels % n == 0 and channels > n] or [1])
        first, *others = ops.split(x, parts, axis=-1)
        return layers.Multiply()([first, *others]) if others else first

    def _unfolded(self, x: keras.KerasTensor) -> keras.KerasTensor:
        rows, columns = x.shape[1:3]
        filters = self._filters()
        if self._choose([True, False]):
            wide = layers.Dense(rows * columns * filters)(layers.GlobalAveragePooling2D()(x))
            wide = self._choose([layers.ReLU, layers.BatchNormalization])()(wide)
            return layers.Reshape((rows, columns, filters))(wide)
        wide = layers.Conv2D(2 * filters, 1)(x)
        return ops.max(layers.Reshape((rows, columns, 2, filters))(wide), axis=3)
