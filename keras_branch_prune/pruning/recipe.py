"""How a model is trained while it is pruned: the settings of all stages."""

from __future__ import annotations

import dataclasses
import math

from keras_branch_prune.common import require_integer, require_number_up_to, require_positive


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How `prune` and the controls train; a value, so that runs with one recipe are comparable.

    Args:
        blend_epochs: The largest number of epochs in which α must reach 0.
        finetune_epochs: Epochs for the compact model.
        learning_rate: The early learning rate, to which fine-tuning returns (it then falls to 0
            along a cosine); `None`: the one that the model was compiled with, of a schedule its
            first.
        blend_learning_rate: The learning rate while α falls; `None`: a fifth of `learning_rate`.
        calibration_samples: Training samples to rank channels by and to fit the pruned branch on;
            0: none, the branch begins as a selection of the original's channels.
        refine: Whether to improve that fit by gradient descent, see `refine`.
        train_original: Whether the original's layers are trained while α falls, or frozen.
        stochastic: Whether every blend draws one of its branches per batch, see `branch`.
        reestimate_batch_norm: Whether to re-estimate the statistics of BatchNormalization after
            every epoch while α falls, and at α = 0, on `calibration_samples` training samples, see
            `ReestimateBatchNorm`. `None`: if that is not 0.
        distillation: Share of the loss that is the distance to the unpruned original's outputs, in
            [0, 1], in both stages.
        temperature: Temperature of the softmax in that distance, greater than 0.
        matching: Weight of the distance between the branches at every blend, at least 0.
        batch_size: Samples per step, where arrays are given.
        seed: Seed of the plan, of what is drawn for calibration, and of the order of arrays.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> recipe = keras_branch_prune.Recipe(blend_epochs=20, distillation=0.5)
        >>> recipe.blend_epochs, recipe.finetune_epochs
        (20, 10)
    """

    blend_epochs: int = 50
    finetune_epochs: int = 10
    learning_rate: float | None = None
    blend_learning_rate: float | None = None
    calibration_samples: int = 1000
    refine: bool = False
    train_original: bool = True
    stochastic: bool = False
    reestimate_batch_norm: bool | None = None
    distillation: float = 0.0
    temperature: float = 4.0
    matching: float = 0.0
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"blend_epochs": 1, "finetune_epochs": 0, "calibration_samples": 0}
        for name, low in {**least, "batch_size": 1, "seed": 0}.items():
            require_integer(name, getattr(self, name), at_least=low)
        for name in ("learning_rate", "blend_learning_rate", "temperature"):
            value = getattr(self, name)
            if value is not None or name == "temperature":
                require_positive(name, value)
        require_number_up_to("distillation", self.distillation, at_most=1)
        require_number_up_to("matching", self.matching, at_most=math.inf)
