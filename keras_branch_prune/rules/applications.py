"""The rules of layers that are defined inside `keras.applications`."""

from __future__ import annotations

import dataclasses

from keras_branch_prune.channels import Kept, Layout
from keras_branch_prune.common import application_layer
from keras_branch_prune.graph import Call, Unit, Value
from keras_branch_prune.rules.base import Rule
from keras_branch_prune.rules.channelwise import Channelwise
from keras_branch_prune.rules.joining import Elementwise


@dataclasses.dataclass(frozen=True)
class LayerScaleRule(Channelwise):
    """`LayerScale` of ConvNeXt: a factor per channel, and their number in the config."""

    def narrow(self, call: Call, layout: Layout, kept: Kept) -> Call:
        """Takes the factors of the kept channels."""
        narrow = super().narrow(call, layout, kept)
        return narrow.replace_unit(config={"projection_dim": len(narrow.unit.weights[0])})


def application_rules() -> dict[type, Rule]:
    """Returns the rules by class; a class that this version of Keras does not have is left out."""
    rules: dict[tuple[str, str], Rule] = {
        ("convnext", "LayerScale"): LayerScaleRule(_last_axis),
        # It drops whole samples.
        ("convnext", "StochasticDepth"): Channelwise(),
        # The sum of two tensors, one of them times a number.
        ("inception_resnet_v2", "CustomScaleLayer"): Elementwise(),
    }
    found = {application_layer(module, name): rule for (module, name), rule in rules.items()}
    return {cls: rule for cls, rule in found.items() if cls is not None}


def _last_axis(unit: Unit, value: Value, layout: Layout) -> bool:
    return layout.axis == len(value.shape) - 1
