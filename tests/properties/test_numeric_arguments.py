"""Every number that a user can give: of NumPy too, and never a bool, a NaN, a text or nothing."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from helpers.small_models import small_branched_model

import keras_branch_prune as kbp

WRONG = [True, math.nan, "3", None]


@functools.cache
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(2, name="head")]
    return keras.Sequential([keras.Input((6,)), *layers])


@functools.cache
def branched() -> keras.Model:
    return kbp.branch(model(), kbp.plan(model(), width=0.5))


@functools.cache
def data() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, 6)).astype("float32")


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A callable, and values in range for its numbers; `None` is allowed for some of them."""

    call: Callable[..., Any]
    valid: dict[str, Any]
    optional: tuple[str, ...] = ()
    runs: bool = True  # Whether calling it takes a moment only.


SCHEDULE = {"threshold": np.float32(0.02)}
DECAY = {"every": np.int64(2), "patience": np.int64(2), "min_delta": np.float32(0.5)}
LIMITS = ("width", "params", "macs", "latency", "round_to", "floors", "ceilings")
SEARCH = {
    "step_size": np.float32(0.5),
    "max_drop": np.float64(0.5),
    "patience": np.int32(2),
    "reference": np.float32(0.5),
    "shrink": np.float32(0.5),
    "growth": np.int64(2),
    "successes": np.uint8(1),
    "min_step": np.float32(0.0625),
    "threshold": np.float32(0.5),
}
RECIPE = {
    "blend_epochs": np.int64(1),
    "finetune_epochs": np.int64(0),
    "learning_rate": np.float32(0.5),
    "blend_learning_rate": np.float32(0.5),
    "calibration_samples": np.int64(0),
    "distillation": np.float32(0.5),
    "temperature": np.float32(2),
    "matching": np.float32(0.5),
    "batch_size": np.int64(8),
    "seed": np.int64(0),
}


def gan(**options):
    generator = kbp.zoo.dcgan_generator(noise=3, widths=(4, 4), image_shape=(8, 8, 1))
    discriminator = kbp.zoo.dcgan_discriminator(widths=(4, 4), image_shape=(8, 8, 1))
    return kbp.zoo.DCGAN(generator, discriminator, **options)


PUBLIC = {
    "AlphaBacktracking": Numbers(kbp.AlphaBacktracking, SEARCH, ("reference",)),
    "AlphaBlend": Numbers(
        lambda **seed: kbp.AlphaBlend(stochastic=True, **seed), {"seed": np.int64(3)}, ("seed",)
    ),
    "AlphaCallback": Numbers(lambda **o: kbp.AlphaCallback(kbp.StepDecay(), **o), DECAY),
    "AlphaCosineDecay": Numbers(kbp.AlphaCosineDecay, {**SCHEDULE, "steps": np.int64(3)}),
    "AlphaExponentialDecay": Numbers(
        kbp.AlphaExponentialDecay, {**SCHEDULE, "rate": np.float32(0.5)}
    ),
    "AlphaLinearDecay": Numbers(kbp.AlphaLinearDecay, {**SCHEDULE, "steps": np.int64(3)}),
    "AlphaMultiplicativeDecay": Numbers(
        kbp.AlphaMultiplicativeDecay, {**SCHEDULE, "factor": np.float32(0.5)}
    ),
    "AlphaReduceOnPlateau": Numbers(
        kbp.AlphaReduceOnPlateau,
        {**SCHEDULE, "factor": np.float32(0.5), "patience": np.int64(0)},
    ),
    "AlphaStepDecay": Numbers(kbp.AlphaStepDecay, {**SCHEDULE, "step_size": np.float32(0.5)}),
    "BacktrackingSearch": Numbers(kbp.BacktrackingSearch, SEARCH, ("reference",)),
    "CosineDecay": Numbers(kbp.CosineDecay, {**SCHEDULE, "steps": np.int64(3)}),
    "DCGAN": Numbers(gan, {"distillation": np.float32(2), "seed": np.int64(0)}, ("seed",)),
    "Distiller": Numbers(
        lambda **options: kbp.Distiller(branched(), model(), **options),
        {"weight": np.float32(0.5), "temperature": np.float32(2), "matching": np.int64(0)},
    ),
    "ExponentialDecay": Numbers(kbp.ExponentialDecay, {**SCHEDULE, "rate": np.float32(0.5)}),
    "Fitting": Numbers(kbp.Fitting, {"ridge": np.float32(0.5)}),
    "IncreaseLROnPlateau": Numbers(
        kbp.IncreaseLROnPlateau,
        {
            "factor": np.float32(2),
            "patience": np.int64(0),
            "decay_epochs": np.int64(1),
            "min_delta": np.float32(0),
            "cooldown": np.int64(0),
            "max_lr": np.float32(2),
        },
        ("cooldown", "max_lr"),
    ),
    "Latency": Numbers(
        lambda milliseconds=None, share=0.5, **options: kbp.Latency(
            share if milliseconds is None else None, milliseconds, **options
        ),
        {
            "share": np.float32(0.5),
            "milliseconds": np.float32(2),
            "batch_size": np.int64(4),
            "threads": np.int64(2),
        },
        ("share", "milliseconds", "threads"),
    ),
    "LinearDecay": Numbers(kbp.LinearDecay, {**SCHEDULE, "steps": np.int64(3)}),
    "MultiplicativeDecay": Numbers(
        kbp.MultiplicativeDecay, {**SCHEDULE, "factor": np.float32(0.5)}
    ),
    "Recipe": Numbers(kbp.Recipe, RECIPE, ("learning_rate", "blend_learning_rate")),
    "ReestimateBatchNorm": Numbers(
        lambda **size: kbp.ReestimateBatchNorm(data(), **size), {"batch_size": np.int64(8)}
    ),
    "RewindLearningRate": Numbers(
        lambda epochs=3, **options: kbp.RewindLearningRate(epochs, **options),
        {
            "epochs": np.int64(2),
            "learning_rate": np.float32(0.5),
            "final_factor": np.float32(0.5),
        },
        ("learning_rate",),
    ),
    "ScaledRates": Numbers(
        lambda **rates: kbp.ScaledRates(keras.optimizers.SGD(), **rates),
        {"original": np.float32(0.5), "maps": np.int64(2), "pruned": np.float32(0)},
    ),
    "StepDecay": Numbers(kbp.StepDecay, {**SCHEDULE, "step_size": np.float32(0.5)}),
    "branch": Numbers(
        lambda **seed: kbp.branch(model(), kbp.plan(model(), width=0.5), stochastic=True, **seed),
        {"seed": np.int64(3)},
        ("seed",),
    ),
    "dcgan_discriminator": Numbers(
        lambda width: kbp.zoo.dcgan_discriminator(widths=(4, width)), {"width": np.int64(4)}
    ),
    "dcgan_generator": Numbers(kbp.zoo.dcgan_generator, {"noise": np.int64(3)}, runs=False),
    "load_model": Numbers(
        lambda **most: kbp.load_model("none.keras", **most),
        {"max_parameters": np.int64(9)},
        ("max_parameters",),
        runs=False,
    ),
    "make_alpha_callback": Numbers(
        lambda parameter: kbp.make_alpha_callback(kbp.ScheduleType.STEP, parameter),
        {"parameter": np.float32(0.5)},
        ("parameter",),
    ),
    "plan": Numbers(
        lambda **options: kbp.plan(
            model(), **{**({} if {*LIMITS[:4]} & {*options} else {"width": 0.5}), **options}
        ),
        {
            "width": np.float32(0.5),
            "params": np.float32(0.5),
            "macs": np.float32(0.5),
            "latency": np.float32(0.5),
            "round_to": np.int64(2),
            "floors": np.float32(0.5),
            "ceilings": np.int64(4),
            "seed": np.int64(3),
        },
        LIMITS,
    ),
    "reconstruct": Numbers(
        lambda **memory: kbp.reconstruct(branched(), data(), **memory),
        {"memory_mib": np.float32(1)},
    ),
    "reestimate_batch_norm": Numbers(
        lambda **size: kbp.reestimate_batch_norm(branched(), data(), **size),
        {"batch_size": np.int64(8)},
    ),
    "refine": Numbers(
        lambda epochs=1, **options: kbp.refine(branched(), data(), epochs=epochs, **options),
        {
            "epochs": np.int64(1),
            "learning_rate": np.float32(1e-3),
            "batch_size": np.int64(9),
            "seed": np.int64(3),
            "memory_mib": np.int64(1),
        },
    ),
    "rgb_autoencoder": Numbers(
        lambda size: kbp.zoo.rgb_autoencoder(input_shape=(size, 16, 3)),
        {"size": np.int64(16)},
        runs=False,
    ),
    "sensitivity": Numbers(
        lambda width=0.5, **seed: kbp.sensitivity(
            model(), calibration=data(), widths=(width,), **seed
        ),
        {"width": np.float32(0.5), "seed": np.int64(3)},
    ),
    "set_alpha": Numbers(
        lambda value: kbp.set_alpha(small_branched_model(), value), {"value": np.float32(0.5)}
    ),
    "standard_prune": Numbers(
        lambda **rounds: kbp.standard_prune(model(), data(), output_dir="none", **rounds),
        {"rounds": np.int64(2)},
        runs=False,
    ),
    "train_from_scratch": Numbers(
        lambda **epochs: kbp.train_from_scratch(model(), data(), output_dir="none", **epochs),
        {"epochs": np.int64(2)},
        runs=False,
    ),
    "vgg16": Numbers(
        kbp.zoo.vgg16,
        {"width": np.float32(0.02), "classes": np.int64(3), "dropout": np.float32(0.5)},
    ),
}
"""By public name, of `keras_branch_prune` or its `zoo`."""

NAMES = {
    "make_alpha_callback": "step_size",
    "dcgan_discriminator": "widths",
    "rgb_autoencoder": "input_shape",
    "sensitivity.width": "widths",
}
"""What an argument of the table is called in messages, where it is only a part of one."""

OTHERS = {
    "AlphaSchedule",  # Abstract; its schedules are here.
    "ChannelMap",  # Made by `branch`.
    "benchmark",  # Checked by tests of its own.
}


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
@pytest.mark.parametrize(
    ("name", "argument"), [(name, a) for name, case in PUBLIC.items() for a in case.valid]
)
def test_what_is_no_number_is_refused_by_name(name, argument, wrong):
    case = PUBLIC[name]
    if wrong is None and argument in case.optional:
        return
    called = NAMES.get(name, NAMES.get(f"{name}.{argument}", argument))
    message = rf"`{called}\b[^`]*` must be .*Received: {called}.*={re.escape(repr(wrong))}$"
    with pytest.raises(ValueError, match=message):
        case.call(**{argument: wrong})


@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, a) for name, case in PUBLIC.items() if case.runs for a in case.valid],
)
def test_numbers_of_numpy_are_taken(name, argument):
    if (name, argument) != ("plan", "latency"):  # Which would be measured.
        PUBLIC[name].call(**{argument: PUBLIC[name].valid[argument]})


def test_all_public_numbers_are_here():
    """Values that the package makes, such as `GroupPlan`, take what they are given."""
    found = set()
    for name in [*kbp.__all__, *kbp.zoo.__all__]:
        public = getattr(kbp, name, None) or getattr(kbp.zoo, name)
        made = dataclasses.is_dataclass(public) and name not in PUBLIC
        if not callable(public) or made or name.endswith("Error"):
            continue
        parameters = inspect.signature(public).parameters.values()
        numbers = [p for p in parameters if re.search(r"\b(int|float)\b", str(p.annotation))]
        found |= {name} if [p for p in numbers if p.name != "verbose"] else set()
    assert found - OTHERS <= PUBLIC.keys()
