"""Re-estimates the statistics of BatchNormalization for the present weights and α."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_branch_prune.common import require_integer
from keras_branch_prune.data import require_samples
from keras_branch_prune.layers import flatten_layers


def reestimate_batch_norm(model: keras.Model, inputs: Any, batch_size: int = 64) -> None:
    """Sets the moving statistics of all BatchNormalization layers to their means over some samples.

    The moving averages that training keeps lag behind. While α falls, the inputs of a layer change
    with every step: then inference is wrong while training is right. Here every layer gets the mean
    and the variance that it computes in training mode, averaged over the batches ("precise BN", Wu
    and Johnson, "Rethinking 'Batch' in BatchNorm", 2021). Layers that are not trainable keep their
    statistics, and so do those that a call of the model does not use, such as the discriminator's
    of a GAN.

    Args:
        model: The model, branched or not; its statistics change in place, no other weights.
            Seeds of dropout and the like move on as in training.
        inputs: Inputs as the model takes them: an array, or a structure of arrays, of shape
            `(samples, …)`. Some hundred samples or more.
        batch_size: Samples per batch; as in training.

    Raises:
        ValueError: If `batch_size` is out of range, there is no sample, or a statistic becomes NaN
            or infinite. The statistics then stay as they were.

    Example:
        >>> keras_branch_prune.reestimate_batch_norm(branched, images[:500])
    """
    require_integer("batch_size", batch_size, at_least=1)
    if not _estimate_anew(model, inputs, batch_size):
        raise ValueError("`inputs` must give finite statistics. Received: NaN or infinite ones")


def _estimate_anew(model: keras.Model, inputs: Any, batch_size: int) -> bool:
    """Re-estimates, unless a statistic becomes NaN or infinite; returns whether none did."""
    found = {id(layer): layer for layer in flatten_layers(model) if _is_estimated(layer)}
    if not found:
        return True
    statistics = [v for layer in found.values() for v in (layer.moving_mean, layer.moving_variance)]
    before = [ops.convert_to_numpy(variable) for variable in statistics]
    momenta = [layer.momentum for layer in found.values()]
    sums, samples = [np.zeros(value.shape) for value in before], 0
    try:
        for layer in found.values():
            # With a momentum of 0 a call in training mode stores the statistics of its batch alone.
            layer.momentum = 0.0
        for batch, count in _cut_batches(inputs, batch_size):
            model(batch, training=True)
            samples += count
            # Weighted by samples, as the last batch may be smaller.
            for total, variable in zip(sums, statistics, strict=True):
                total += count * np.asarray(ops.convert_to_numpy(variable), np.float64)
    # Also after an error or Ctrl-C, which would else leave the statistics of a single batch.
    finally:
        for layer, momentum in zip(found.values(), momenta, strict=True):
            layer.momentum = momentum
        _set_variables(statistics, before)
    finite = all(np.isfinite(total).all() for total in sums)
    if finite:
        _set_variables(statistics, [total / samples for total in sums])
    return finite


class ReestimateBatchNorm(keras.callbacks.Callback):
    """Re-estimates the statistics of BatchNormalization after every epoch, before validation.

    Validation, and the callbacks that watch it, then see the model without the lag of its moving
    averages; see `reestimate_batch_norm`. Put it before `EpochBackup`. It costs a forward pass in
    training mode over the samples. Where weights have diverged and statistics would become NaN or
    infinite, the statistics stay as they were; `StopOnNonFinite` is for ending such a training.

    Args:
        inputs: Inputs as the model takes them, some hundred samples of the training data or more.
        batch_size: Samples per batch; as in training.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> statistics = kbp.ReestimateBatchNorm(images[:1000])
        >>> callbacks = [kbp.AlphaBacktracking(0.1), statistics]
        >>> branched.fit(train, validation_data=validation, epochs=50, callbacks=callbacks)
    """

    def __init__(self, inputs: Any, batch_size: int = 64):
        super().__init__()
        self._inputs = inputs
        self._batch_size = require_integer("batch_size", batch_size, at_least=1)
        self._done = False
        require_samples("inputs", inputs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes that training makes the statistics lag behind again."""
        self._done = False

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Re-estimates before validation."""
        self._reestimate()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Re-estimates unless that was done for the validation."""
        self._reestimate()

    def _reestimate(self) -> None:
        if not self._done:
            _estimate_anew(self.model, self._inputs, self._batch_size)
            self._done = True


def _is_estimated(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization) and layer.trainable


def _cut_batches(inputs: Any, batch_size: int) -> Iterator[tuple[Any, int]]:
    samples = require_samples("inputs", inputs)
    for start in range(0, samples, batch_size):
        rows = slice(start, start + batch_size)
        batch = tree.map_structure(lambda array, at=rows: ops.convert_to_tensor(array[at]), inputs)
        yield batch, min(batch_size, samples - start)


def _set_variables(variables: list[Any], values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
