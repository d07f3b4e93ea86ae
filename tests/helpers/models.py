"""Small models that the tests are run on, by name, and helpers to compare models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import layers, ops
from keras.src.applications.convnext import LayerScale, StochasticDepth

import keras_branch_prune as kbp
from keras_branch_prune.graph.equivalence import draw_inputs, relative_error

# Keras 3.8 has no RMSNormalization yet.
_RMS_NORMALIZATION = getattr(layers, "RMSNormalization", layers.LayerNormalization)


def _images(channels: int = 3, size: int = 8, name: str = "image") -> keras.KerasTensor:
    return keras.Input((size, size, channels), name=name)


def mlp() -> keras.Model:
    x = inputs = keras.Input((6,), name="features")
    x = layers.Dense(8, activation="relu", name="hidden1")(x)
    x = layers.Dense(6, activation="tanh", name="hidden2")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x), name="mlp")


def conv_bn() -> keras.Model:
    x = inputs = _images()
    for index, filters in enumerate((8, 6), 1):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{index}")(x)
        x = layers.BatchNormalization(name=f"bn{index}")(x)
        x = layers.ReLU(name=f"relu{index}")(x)
        x = layers.MaxPooling2D(name=f"pool{index}")(x)
    x = layers.Dropout(0.5, name="dropout")(layers.Flatten(name="flatten")(x))
    return keras.Model(inputs, layers.Dense(4, name="head")(x), name="conv_bn")


def fused_activations() -> keras.Model:
    x = inputs = _images()
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv1")(x)
    x = layers.ZeroPadding2D(1, name="pad")(x)
    x = layers.Conv2D(4, 3, activation="elu", name="conv2")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(2, activation="softmax", name="head")(x))


def conv1d() -> keras.Model:
    x = inputs = keras.Input((12, 3))
    x = layers.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="relu")(x)
    x = layers.AveragePooling1D(2)(layers.SpatialDropout1D(0.2)(x))
    x = layers.Conv1DTranspose(4, 3, strides=2, padding="same")(layers.LeakyReLU()(x))
    x = layers.Cropping1D(1)(layers.UpSampling1D(2)(layers.ZeroPadding1D(1)(x)))
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalMaxPooling1D()(x)))


def conv3d() -> keras.Model:
    x = inputs = keras.Input((4, 4, 4, 2))
    x = layers.Conv3D(6, 2, padding="same", name="conv1")(x)
    x = layers.BatchNormalization()(layers.MaxPooling3D(2)(x))
    x = layers.Conv3DTranspose(4, 2, strides=2, name="conv2")(layers.ELU()(x))
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling3D(keepdims=True)(x)))


def prelu() -> keras.Model:
    x = inputs = _images()
    x = layers.PReLU(name="per_position")(layers.Conv2D(6, 3)(x))
    x = layers.PReLU(shared_axes=[1, 2], name="per_channel")(layers.Conv2D(4, 3)(x))
    x = layers.PReLU(name="flattened")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(2)(x))


def residual() -> keras.Model:
    inputs = _images()
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    for index in (1, 2):
        y = layers.ReLU()(x)
        y = layers.Conv2D(6, 3, padding="same", use_bias=False, name=f"reduce{index}")(y)
        y = layers.BatchNormalization()(y)
        y = layers.Conv2D(8, 3, padding="same", name=f"restore{index}")(layers.ReLU()(y))
        x = layers.Add(name=f"add{index}")([x, y])
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))


def normalized() -> keras.Model:
    """`Normalization` inside a region: adapted, by given statistics, inverted, of scalars."""
    inputs = _images()
    x = layers.Conv2D(6, 3, padding="same", name="conv1")(inputs)
    x = layers.Normalization(axis=3, name="adapted")(x)
    given = {"mean": [0.1 * n for n in range(6)], "variance": [0.5 + n for n in range(6)]}
    x = layers.Normalization(invert=True, name="inverted", **given)(x)
    x = layers.Normalization(mean=np.float32(0.5), variance=2.0, name="scalar")(x)
    x = layers.Normalization(axis=None, name="whole")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))


def gate() -> keras.Model:
    inputs = _images()
    x = layers.Conv2D(8, 3, padding="same", name="features")(inputs)
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(x)
    squeezed = layers.Conv2D(4, 1, activation="relu", name="squeeze")(squeezed)
    excited = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(squeezed)
    mask = layers.Conv2D(1, 1, activation="sigmoid", name="mask")(x)
    x = layers.Multiply()([layers.Multiply()([x, excited]), mask])
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def unet() -> keras.Model:
    inputs = _images()
    down = layers.Conv2D(6, 3, padding="same", activation="relu", name="down")(inputs)
    x = layers.MaxPooling2D()(down)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="middle")(x)
    x = layers.Conv2DTranspose(4, 2, strides=2, name="up")(x)
    x = layers.Concatenate()([inputs, down, x, layers.BatchNormalization()(down)])
    x = layers.BatchNormalization()(x)
    return keras.Model(inputs, layers.Conv2D(3, 3, padding="same", name="head")(x))


def flattened_branches() -> keras.Model:
    inputs = _images(size=4)
    x = layers.Conv2D(6, 3, padding="same", name="a")(inputs)
    y = layers.Conv2D(4, 3, strides=2, padding="same", name="b")(inputs)
    z = layers.Dense(5, name="c")(layers.GlobalMaxPooling2D()(x))
    w = layers.Dense(3, name="d")(z)
    x = layers.Concatenate()([z, layers.Flatten()(x), layers.Flatten()(y), w, z])
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.ReLU()(x)))


def generator() -> keras.Model:
    """Dense layers whose channels stand at several positions, as a reshape says later."""
    inputs = keras.Input((5,), name="noise")
    x = layers.Dense(4 * 4 * 6, use_bias=False, name="project")(inputs)
    x = layers.LeakyReLU()(layers.BatchNormalization()(x))
    x = x + layers.Dense(4 * 4 * 6, activation="tanh", name="shift")(inputs)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="up")(
        layers.Reshape((4, 4, 6))(x)
    )
    y = layers.Dense(6, activation="relu", name="hidden")(inputs)
    y = layers.Dense(8 * 4, activation="relu", name="rows")(y)
    y = layers.Conv1D(8 * 4, 3, padding="same", name="columns")(ops.reshape(y, (-1, 8, 4)))
    x = layers.Concatenate(name="joined")([x, layers.Reshape((8, 8, -1))(layers.ReLU()(y))])
    x = layers.Conv2D(8, 3, padding="same", name="mix")(layers.ReLU()(x))
    x = layers.Reshape((-1,))(layers.MaxPooling2D(4)(x))
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Dense(8, name="last")(x)))


def nested_twice() -> keras.Model:
    """A nested model called twice, inside and outside layers shared, dict inputs and outputs."""
    x = inner_inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv")(x)
    x = layers.Conv2D(4, 3, padding="same", name="project")(layers.BatchNormalization()(x))
    inner = keras.Model(inner_inputs, x, name="inner")
    inputs = {"left": _images(name="left"), "right": _images(name="right")}
    stem = layers.Conv2D(4, 3, padding="same", name="stem")
    left, right = (inner(stem(inputs[key]), training=False) for key in ("left", "right"))
    head = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="dense")], name="score")
    score = head(layers.GlobalAveragePooling2D()(layers.Maximum()([left, right])))
    extra = layers.Dense(3, activation="softmax", name="extra")(layers.Flatten()(left))
    return keras.Model(inputs, {"score": score, "extra": extra}, name="nested_twice")


def sequential() -> keras.Model:
    model = keras.Sequential(name="sequential")
    model.add(keras.Input((8, 8, 3)))
    model.add(layers.Conv2D(6, 3, activation="gelu", name="first"))
    block = [layers.Conv2D(8, 3, name="second"), layers.ReLU(name="relu")]
    model.add(keras.Sequential(block, name="block"))
    model.add(layers.Flatten(name="flat"))
    model.add(layers.Dense(3, name="last"))
    return model


def shared_dense() -> keras.Model:
    """One dense layer applied to two tensors, which thereby share their width and expand map."""
    inputs = keras.Input((6,))
    a = layers.Dense(8, activation="relu", name="a")(inputs)
    b = layers.Dense(8, activation="tanh", name="b")(inputs)
    shared = layers.Dense(5, activation="relu", name="shared")
    x = layers.Average()([shared(a), shared(b)])
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def channels_first() -> keras.Model:
    # Keras on TensorFlow adds a bias along the last axis if that is as long as there are filters.
    # No width, before or after pruning, may equal the image size here.
    x = inputs = keras.Input((3, 8, 8))
    first = {"data_format": "channels_first"}
    x = layers.Conv2D(6, 3, padding="same", name="conv1", **first)(x)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.MaxPooling2D(**first)(layers.ReLU()(x))
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv2", **first)(x)
    x = layers.UpSampling2D(**first)(layers.PReLU(shared_axes=[2, 3])(x))
    x = layers.Flatten(**first)(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def depthwise() -> keras.Model:
    x = inputs = _images()
    x = layers.Conv2D(6, 3, padding="same", name="expand")(x)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu6", name="depthwise")(x)
    x = layers.Conv2D(4, 1, name="project")(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="doubled")(x)
    x = layers.SeparableConv2D(6, 3, padding="same", activation="relu", name="separable")(x)
    x = layers.SeparableConv2D(5, 3, depth_multiplier=3, use_bias=False, name="tripled")(x)
    x = layers.DepthwiseConv2D(2, depth_multiplier=2, name="last")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))


def separable1d() -> keras.Model:
    x = inputs = keras.Input((12, 3))
    x = layers.SeparableConv1D(6, 3, strides=2, padding="same", name="separable")(x)
    x = layers.DepthwiseConv1D(3, name="depthwise")(layers.ReLU()(x))
    return keras.Model(inputs, layers.SeparableConv1D(2, 3, name="head", activation="tanh")(x))


def grouped() -> keras.Model:
    """Grouped convolutions after each other, beside plain ones, and normalized in groups."""
    inputs = _images()
    x = layers.Conv2D(12, 1, name="widen")(inputs)
    x = layers.GroupNormalization(3)(x)
    y = layers.Conv2D(8, 3, groups=4, padding="same", name="grouped", activation="relu")(x)
    z = layers.Conv2D(12, 3, groups=2, padding="same", use_bias=False, name="pairs")(x)
    y = layers.Conv2D(12, 1, name="plain")(layers.GroupNormalization(-1)(y))
    x = layers.Add()([x, layers.Add()([y, z])])
    x = layers.Conv2D(24, 3, groups=12, padding="same", name="depthwise")(x)
    x = layers.GlobalAveragePooling2D()(layers.UnitNormalization()(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def joined_concats() -> keras.Model:
    """Sums of tensors whose channels are concatenated differently: groups must be cut."""
    inputs = _images()

    def conv(filters: int, name: str) -> keras.KerasTensor:
        return layers.Conv2D(filters, 3, padding="same", name=name)(inputs)

    x = layers.Add(name="sum")([layers.Concatenate()([conv(4, "a"), conv(6, "b")]), conv(10, "c")])
    x = layers.BatchNormalization()(layers.Maximum()([x, conv(10, "d")]))
    x = layers.Conv2D(8, 3, padding="same", name="e")(layers.Concatenate()([inputs, x]))
    # Half of `f` is tied to channels that cannot be pruned, a part of `g` to another part of it.
    stay = layers.Softmax()(conv(4, "stay"))
    x = layers.Add()([layers.Concatenate()([stay, conv(4, "free")]), x])
    g = layers.Conv2D(6, 1, name="g")(x)
    doubled = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(g)
    y = layers.Concatenate()([doubled, g])
    h = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(conv(6, "h"))
    y = layers.Subtract()([y, layers.Concatenate()([h, conv(2, "i"), conv(4, "j")])])
    z = layers.Concatenate()([layers.Flatten()(y), layers.GlobalAveragePooling2D()(y)])
    return keras.Model(inputs, layers.Dense(2, name="head")(z), name="joined_concats")


def operators() -> keras.Model:
    """Python operators and `keras.ops` between the layers."""
    inputs = _images()
    x = layers.Conv2D(6, 3, padding="same", name="conv1")(inputs)
    y = layers.Conv2D(6, 1, name="conv2")(ops.relu(x) * 0.5 + 1.0)
    x = ops.maximum(x - y, ops.clip(y, -1.0, 1.0)) / 2.0
    squeezed = ops.mean(x, axis=(1, 2))
    gate = layers.Dense(6, name="gate")(ops.silu(layers.Dense(4, name="squeeze")(squeezed)))
    x = x * layers.Reshape((1, 1, 6))(ops.sigmoid(gate))
    x = ops.transpose(x, (0, 2, 1, 3))
    x = ops.reshape(x, (-1, 64, 6))
    x = layers.Permute((2, 1))(layers.Rescaling(0.5)(x))
    x = ops.max(x, axis=2)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def slices() -> keras.Model:
    """Parts of tensors: of positions, of channels, and channels that are split and joined again."""
    inputs = _images()
    x = layers.Conv2D(12, 3, padding="same", name="gated")(inputs)
    x, gate = ops.split(layers.BatchNormalization()(x), 2, axis=-1)
    x = (x * ops.sigmoid(gate))[:, ::2, 1:-1]
    a, b, c = ops.split(layers.Conv2D(9, 1, name="uneven")(x), (2, 5), axis=3)
    b = layers.Conv2D(4, 1, name="on")(b)
    # What `stay` gives keeps its channels inside a tensor of which others go.
    stay = layers.Softmax()(layers.Conv2D(3, 1, name="stay")(x))
    y = layers.BatchNormalization()(layers.Concatenate()([stay, c, a, b]))
    y = y[:, 1:3, :, 1:7]
    first, rest = y[..., :2], y[:, :, :, 2:6]
    top, bottom = ops.split(rest, 2, axis=1)
    x = layers.Concatenate()([layers.ReLU()(first[:, 0]), (top - bottom)[:, -1, :, :]])
    x = layers.Flatten()(x[:, None, :4])
    return keras.Model(inputs, layers.Dense(2, name="head")(x), name="slices")


def tokens() -> keras.Model:
    inputs = keras.Input((5,), dtype="int32", name="tokens")
    x = layers.Embedding(7, 8, name="table")(inputs)
    y = layers.Dense(12, activation="gelu", name="wide")(layers.LayerNormalization()(x))
    x = x + layers.Dense(8, name="narrow")(y)
    x = layers.Reshape((40,))(_RMS_NORMALIZATION()(x))
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def einsum_mlp() -> keras.Model:
    """Einsum layers that map channels: at the end, before the end, with an ellipsis."""
    inputs = keras.Input((5, 6))
    x = layers.EinsumDense("abc,cd->abd", (5, 8), activation="gelu", bias_axes="d", name="a")(
        inputs
    )
    x = layers.EinsumDense("...x,yx->...y", 10, name="b")(x)
    x = layers.EinsumDense("abc,cd->adb", (12, 5), bias_axes="d", name="c")(x)
    x = layers.EinsumDense("adb,dc->abc", (5, 6), bias_axes="c", name="d")(x)
    x = layers.TimeDistributed(layers.Dense(8, activation="relu"), name="steps")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))


def convnext() -> keras.Model:
    inputs = _images()
    x = layers.Conv2D(8, 2, strides=2, name="stem")(inputs)
    for index in (1, 2):
        y = layers.DepthwiseConv2D(3, padding="same", name=f"depthwise{index}")(x)
        y = layers.Dense(16, activation="gelu", name=f"up{index}")(layers.LayerNormalization()(y))
        y = LayerScale(0.1, 8, name=f"scale{index}")(layers.Dense(8, name=f"down{index}")(y))
        x = layers.Add()([x, StochasticDepth(0.2, name=f"drop{index}")(y)])
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.GlobalAveragePooling2D()(x)))


def vision_transformer() -> keras.Model:
    image, positions = _images(), keras.Input((16,), dtype="int32", name="positions")
    x = layers.Conv2D(12, 2, strides=2, name="patches")(image)
    x = layers.Reshape((16, 12))(x)
    x = layers.Add()([x, layers.Embedding(16, 12, name="places")(positions)])
    for index, options in enumerate(({"value_dim": 6}, {"use_bias": False, "dropout": 0.1}), 1):
        y = layers.LayerNormalization()(x)
        attend = layers.MultiHeadAttention(4, 3, name=f"attention{index}", **options)
        x = layers.Add()([x, attend(y, y)])
        y = layers.Dense(20, activation="gelu", name=f"up{index}")(layers.LayerNormalization()(x))
        x = x + layers.Dense(12, name=f"down{index}")(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model([image, positions], layers.Dense(3, name="head")(x))


def decoder() -> keras.Model:
    """Causal self-attention, and cross-attention to a memory of another width with a mask."""
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    memory = keras.Input((5, 7), name="memory")
    mask = keras.Input((6, 5), dtype="bool", name="mask")
    x = layers.Embedding(9, 8, name="table")(tokens)
    memory = layers.Dense(10, activation="relu", name="remember")(source := memory)
    y = layers.MultiHeadAttention(2, 4, name="causal")(x, x, use_causal_mask=True)
    x = layers.LayerNormalization()(x + y)
    cross = layers.MultiHeadAttention(3, 4, value_dim=2, output_shape=8, name="cross")
    y = cross(x, memory, key=layers.Dense(6, name="keys")(memory), attention_mask=mask)
    x = _RMS_NORMALIZATION()(x + y)
    x = x + layers.Dense(8, name="down")(layers.Dense(16, activation="silu", name="up")(x))
    return keras.Model([tokens, source, mask], layers.Dense(9, name="head")(x))


def barriers() -> keras.Model:
    """Every kind of layer that stops the pruning, with one group left that can be pruned."""
    inputs = _images()
    x = layers.Conv2D(4, 3, padding="same", name="softmaxed", activation="softmax")(inputs)
    x = layers.Conv2D(6, 3, padding="same", name="free")(x)
    x = layers.Conv2D(8, 3, padding="same", name="reshaped")(layers.ReLU()(x))
    x = layers.Reshape((8, 64))(x)
    x = layers.LSTM(5, name="recurrent")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


BUILDERS: dict[str, Callable[[], keras.Model]] = {
    builder.__name__: builder
    for builder in (
        mlp,
        conv_bn,
        fused_activations,
        conv1d,
        conv3d,
        prelu,
        residual,
        normalized,
        gate,
        unet,
        flattened_branches,
        generator,
        nested_twice,
        sequential,
        shared_dense,
        channels_first,
        depthwise,
        separable1d,
        grouped,
        joined_concats,
        operators,
        slices,
        tokens,
        einsum_mlp,
        convnext,
        vision_transformer,
        decoder,
        barriers,
    )
}


def build(name: str) -> keras.Model:
    """Returns the named model with random weights everywhere, so that mistakes show."""
    return randomized(BUILDERS[name]())


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """Fills all weights with random numbers (variances positive) and returns the model."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" not in weight.dtype:
            continue
        fan_in = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 4.0
        value = rng.normal(size=weight.shape) / np.sqrt(fan_in)
        positive = weight.name in ("moving_variance", "variance", "gamma")
        weight.assign(np.abs(value) + 0.5 if positive else value)
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


@contextlib.contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Makes a policy the default for a while."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def perturb_maps(branched: keras.Model, seed: int = 0) -> None:
    """Moves the reduce and expand maps away from selections, as training does."""
    rng = np.random.default_rng(seed)
    for layer in branched.layers:
        if layer.name.endswith(("__reduce", "__expand")):
            layer.set_weights([w + rng.normal(size=w.shape) * 0.3 for w in layer.get_weights()])


def error_between(expected: keras.Model, actual: keras.Model, batch_size: int = 4) -> float:
    """Returns the relative error between two models on random inputs."""
    inputs = draw_inputs(expected, batch_size, seed=7)
    return relative_error(expected(inputs, training=False), actual(inputs, training=False))


def branched(name="conv_bn", **options):
    model = build(name)
    return kbp.branch(model, kbp.plan(model, width=0.5), **options)
