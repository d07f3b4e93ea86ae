"""Structured pruning as masking does it: zeros at the original shapes."""

from __future__ import annotations

import keras
import numpy as np

from keras_branch_prune import PruningPlan


def masked(model: keras.Model, plan: PruningPlan) -> keras.Model:
    """Returns a copy of a VGG16 of the zoo whose removed channels are zero, at the same shapes.

    It computes what the compact model of the plan does, if that was not calibrated.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for group in plan.groups:
        removed = np.setdiff1d(np.arange(group.channels), group.kept)
        convolution = copy.get_layer(group.name)
        norm = copy.get_layer(group.name.replace("conv", "bn"))
        # Without an offset, BatchNormalization leaves zeros zeros.
        for weight in (convolution.kernel, norm.gamma, norm.beta):
            value = weight.numpy()
            value[..., removed] = 0
            weight.assign(value)
    return copy
