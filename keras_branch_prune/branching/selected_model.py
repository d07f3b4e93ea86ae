"""Makes the compact model of a plan directly, without branching and merging."""

from __future__ import annotations

import keras

from keras_branch_prune.analysis import Analysis, PruningPlan, analyse_for_plan, narrowed_graph
from keras_branch_prune.channels import Kept
from keras_branch_prune.graph import build_model, fuse


def select(model: keras.Model, plan: PruningPlan) -> keras.Model:
    """Returns the compact model that has the kept channels of a plan, unchanged: nothing is fitted.

    Its weights equal those of `merge` on a model that was just branched without calibration data,
    at α = 0. Kernels are cut along their channels: where k of the C filters of a `Conv2D`
    stay, its kernel `(height, width, inputs, C)` becomes `(height, width, inputs, k)`, and that of
    the next convolution, `(height, width, C, filters)`, becomes `(height, width, k, filters)`.

    Args:
        model: A built functional or Sequential model; it is not changed.
        plan: A plan made for a model of this structure.

    Returns:
        A new model of stock Keras layers, not compiled, whose layers have the names and configs of
        the original's and the widths of the plan.

    Raises:
        TypeError: If `model` is not a Keras model or `plan` not a plan.
        ValueError: If the plan was made for another model, or the model cannot be analysed, is
            branched already or has weights that are not finite.

    Example:
        >>> import keras
        >>> import keras_branch_prune as kbp
        >>> inputs = keras.Input((4,))
        >>> x = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
        >>> model = keras.Model(inputs, keras.layers.Dense(2)(x))
        >>> compact = kbp.select(model, kbp.plan(model, width=0.25))
        >>> [tuple(weight.shape) for weight in compact.weights]
        [(4, 2), (2,), (2, 2), (2,)]
    """
    return select_channels(analyse_for_plan(model, plan), plan.kept)


def select_channels(analysis: Analysis, kept: Kept) -> keras.Model:
    """Returns the compact model that has some of the channels, unchanged.

    Args:
        analysis: The channel groups of the model.
        kept: The channels that stay, by group.
    """
    return build_model(fuse(narrowed_graph(analysis, kept)))
