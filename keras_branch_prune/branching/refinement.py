"""Refines the pruned branch of a branched model by gradient descent, without labels.

`reconstruct` fits one map after another. Here all maps and all narrow layers are trained together:
the tensors of the pruned network (α = 0) should come near those of the unchanged original (α = 1)
at every blend and at the outputs. FitNets (Romero et al. 2015) do so at one layer ("hints").

The loss is the mean over those tensors of `log(|o − p|² / |o|²)`. Halving the error of one tensor
gains as much as halving that of any other. In a sum of plain errors those of the last layers, which
are the largest, would outweigh all others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_branch_prune.common import (
    mask_of,
    require_integer,
    require_positive,
    require_tensorflow,
)
from keras_branch_prune.data import Samples, Spool, read_batches
from keras_branch_prune.graph import as_array, canonical, pack
from keras_branch_prune.layers import AlphaBlend, ChannelMap, alpha_layer, is_narrow, read_scalar

_HELD_OUT = 0.1
"""Share of the samples that are not trained on; they decide which epoch is kept."""

_FLOOR = 1e-4
"""Added to each relative squared error, so that the logarithm of an exact tensor is finite. What
differs by less than 1 % hardly counts any more; half precision rounds by nearly as much."""


@dataclasses.dataclass(frozen=True)
class Refinement:
    """The errors of a refinement, epoch by epoch.

    An error is the geometric mean of `|o − p|² / |o|²` over all blends and outputs.

    Args:
        errors: Error on the held-out samples before the first epoch and after each.
        losses: Mean error on the other samples during each epoch.
        best: The epoch with the least held-out error, whose weights were kept; 0 is the start.
    """

    errors: tuple[float, ...]
    losses: tuple[float, ...]
    best: int


def refine(
    branched: keras.Model,
    data: Any,
    *,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    batch_size: int = 50,
    seed: int = 0,
    memory_mib: float = 256,
) -> Refinement:
    """Trains the pruned branch of a branched model, in place, to compute what the original does.

    Only the maps and the layers of the pruned branch are trained, unless they are frozen; all
    layers run in inference mode. A tenth of the samples is held out: the model ends with the
    weights of the epoch that is best on them, perhaps those of the start. α and the weights of the
    original do not change.

    Weights in half precision (other than under a mixed policy) are mostly too coarse for such small
    steps, and gain nothing.

    Args:
        branched: A model made by `branch`, best after `reconstruct`.
        data: Calibration inputs as for `reconstruct`, read once. Samples are shuffled for every
            epoch, whatever batches they come in.
        epochs: Passes over the data.
        learning_rate: Adam's learning rate at the first step; it falls to 0 along a cosine. The
            error may first rise, and is least at the end.
        batch_size: Samples per step.
        seed: Seed of the split and of the shuffling.
        memory_mib: Memory for the data, MiB; the rest goes to temporary files.

    Returns:
        The errors by epoch, and which one was kept.

    Raises:
        NotImplementedError: If the backend is not TensorFlow.
        TypeError: If `data` has another structure than the inputs.
        ValueError: If `branched` is not a branched model, nothing in it may move, an argument is
            out of range, there are fewer than two samples, or an error becomes NaN or infinite.
            Whatever is raised, the weights are then as they were before.

    Example:
        >>> keras_branch_prune.reconstruct(branched, images)
        >>> errors = keras_branch_prune.refine(branched, images, epochs=2).errors
        >>> len(errors), min(errors) <= errors[0]
        (3, True)
    """
    require_tensorflow("`refine`")
    require_integer("epochs", epochs, at_least=1)
    require_positive("learning_rate", learning_rate)
    require_integer("batch_size", batch_size, at_least=1)
    require_integer("seed", seed, at_least=0)
    pair = _Pair(branched)
    with Spool(memory_mib) as spool, _restore_on_error(pair):
        samples = Samples(spool, read_batches(data, pair.graph))
        training = _Training(pair, samples, epochs, learning_rate, batch_size, seed)
        errors, losses = [training.validate(0)], []
        best, weights = 0, _copy_values(pair.variables)
        for epoch in range(1, epochs + 1):
            losses.append(training.train(epoch))
            errors.append(training.validate(epoch))
            if errors[-1] < errors[best]:
                best, weights = epoch, _copy_values(pair.variables)
        _assign_values(pair.variables, weights)
    return Refinement(tuple(errors), tuple(losses), best)


class _Pair:
    """The original and the pruned network of a branched model, compared at blends and outputs.

    Both are the branched model itself, without a copy: α = 1 makes it the one, α = 0 the other.

    Args:
        branched: A model made by `branch`.
    """

    def __init__(self, branched: keras.Model):
        self.graph = canonical(branched)
        self.alpha = alpha_layer(branched).alpha
        self.variables = _narrow_variables(branched)
        self.is_float16 = any(layer.compute_dtype == "float16" for layer in branched.layers)
        self._model = keras.Model(branched.input, _compared_tensors(branched))

    def tensors(self, alpha: float, inputs: Sequence[Any]) -> list[Any]:
        """Returns the compared tensors of the network that `alpha` chooses; `inputs` are flat."""
        self.alpha.assign(alpha)
        packed = pack(self.graph.inputs, self.graph.input_values, inputs)
        return self._model(packed, training=False)


def _narrow_variables(branched: keras.Model) -> list[Any]:
    variables = [
        variable
        for layer in branched.layers
        if isinstance(layer, ChannelMap) or is_narrow(layer.name)
        for variable in layer.trainable_variables
    ]
    if not variables:
        raise ValueError(
            "`branched` must have maps or narrow layers that are trainable. "
            f"Received: model {branched.name!r} without"
        )
    return variables


def _compared_tensors(branched: keras.Model) -> list[Any]:
    """Returns the symbolic outputs of all blends, and those of the model that are no integers."""
    blends = [layer.output for layer in branched.layers if isinstance(layer, AlphaBlend)]
    return blends + [tensor for tensor in branched.outputs if "float" in tensor.dtype]


def _squares(original: Sequence[Any], pruned: Sequence[Any]) -> Any:
    """Returns `(|o − p|², |o|²)` of every pair of tensors, of shape `(tensors, 2)`, float32."""
    return ops.stack(
        [
            ops.stack([ops.sum(ops.square(part)) for part in (o - p, o)])
            for o, p in map(_mask, original, pruned)
        ]
    )


def _mask(original: Any, pruned: Any) -> tuple[Any, Any]:
    """Returns both tensors as float32, 0 at the time steps that a Keras mask leaves out."""
    mask = mask_of(original)
    o, p = ops.cast(original, "float32"), ops.cast(pruned, "float32")
    if mask is None:
        return o, p
    mask = ops.reshape(mask, (*ops.shape(mask), *[1] * (len(o.shape) - len(mask.shape))))
    return ops.where(mask, o, 0.0), ops.where(mask, p, 0.0)


def _log_error(squares: Any) -> Any:
    """Returns the logarithm of the geometric mean of the relative squared errors."""
    # A tensor of zeros would divide by 0.
    energy = ops.maximum(squares[:, 1], np.finfo(np.float32).tiny)
    return ops.mean(ops.log(squares[:, 0] / energy + _FLOOR))


class _Training:
    """Epochs of training on most of the samples, and of validation on the others."""

    def __init__(
        self,
        pair: _Pair,
        samples: Samples,
        epochs: int,
        learning_rate: float,
        batch_size: int,
        seed: int,
    ):
        order = np.random.default_rng(seed).permutation(len(samples)).tolist()
        held_out = max(1, round(_HELD_OUT * len(samples)))
        self._held_out, self._rest = order[:held_out], order[held_out:]
        self._variables = pair.variables
        self._samples = samples
        self._batch_size = batch_size
        self._learning_rate = learning_rate
        self._seed = seed
        steps = epochs * len(samples.grouped(self._rest, batch_size))
        self._step, self._measure = _compile_functions(pair, learning_rate, steps)

    def train(self, epoch: int) -> float:
        """Trains one epoch and returns the mean error during it."""
        # Seeded by the epoch, so that the order does not depend on what was drawn before.
        order = np.random.default_rng((self._seed, epoch)).permutation(self._rest).tolist()
        batches = self._samples.grouped(order, self._batch_size)
        # Checked at every step: one that is not finite spoils all that follow.
        losses = [self._check_finite(self._step(self._samples.read(b)), epoch) for b in batches]
        return math.exp(sum(losses) / len(losses))

    def validate(self, epoch: int) -> float:
        """Returns the error on the samples that are held out."""
        batches = self._samples.grouped(self._held_out, self._batch_size)
        squares = sum(ops.convert_to_numpy(self._measure(self._samples.read(b))) for b in batches)
        # A compiled ReLU may turn NaN into 0, so that the error alone does not tell.
        finite = all(ops.all(ops.isfinite(variable)) for variable in self._variables)
        return math.exp(self._check_finite(_log_error(squares) if finite else math.nan, epoch))

    def _check_finite(self, log_error: Any, epoch: int) -> float:
        value = float(log_error)
        if not math.isfinite(value):
            raise ValueError(
                "The difference between the branches must stay finite; try a smaller "
                f"`learning_rate`. Received: {value} in epoch {epoch} at "
                f"learning_rate={self._learning_rate:g}; the weights are as before the refinement"
            )
        return value


def _compile_functions(
    pair: _Pair, learning_rate: float, steps: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compiles a training step, which returns `_log_error`, and a measurement: `_squares`."""
    optimizer: Any = keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    )
    if pair.is_float16:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(pair.variables)
    # With an open batch size, so that the smaller last batch is not traced for itself.
    signature = [[tf.TensorSpec(v.shape, v.dtype) for v in pair.graph.input_values]]

    @tf.function(input_signature=signature, autograph=False)
    def step(inputs: list[Any]) -> Any:
        # Outside the tape: no gradient goes through the original.
        original, sources = pair.tensors(1.0, inputs), [v.value for v in pair.variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            loss = _log_error(_squares(original, pair.tensors(0.0, inputs)))
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, sources, unconnected_gradients="zero")
        optimizer.apply(gradients, pair.variables)
        return loss

    @tf.function(input_signature=signature, autograph=False)
    def measure(inputs: list[Any]) -> Any:
        return _squares(pair.tensors(1.0, inputs), pair.tensors(0.0, inputs))

    return step, measure


@contextlib.contextmanager
def _restore_on_error(pair: _Pair) -> Iterator[None]:
    """Puts α back in the end, and all weights as well if there was an exception."""
    alpha, weights = read_scalar(pair.alpha), _copy_values(pair.variables)
    # BaseException, as the weights should be whole after Ctrl-C too.
    try:
        yield
    except BaseException:
        _assign_values(pair.variables, weights)
        raise
    finally:
        pair.alpha.assign(alpha)


def _copy_values(variables: Sequence[Any]) -> list[np.ndarray]:
    return [np.copy(as_array(variable)) for variable in variables]


def _assign_values(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
