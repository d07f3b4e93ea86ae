from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from helpers.models import BUILDERS
from keras import layers

from keras_branch_prune.analysis.groups import Analysis, analyse
from keras_branch_prune.graph.canonical import canonical
from keras_branch_prune.planning.allocation import allocate, check_reachable
from keras_branch_prune.planning.cost_model import CostModel
from keras_branch_prune.planning.widths import WidthChoices, WidthLimits
from keras_branch_prune.rules.table import output_kernel


def branches(*channels: int, sizes: tuple[int, ...] | None = None) -> Analysis:
    """Dense layers side by side, so that their costs are independent of each other."""
    inputs = [keras.Input((size,)) for size in sizes or [5] * len(channels)]
    parts = [layers.Dense(n, name=f"d{n}_{i}")(inputs[i]) for i, n in enumerate(channels)]
    x = layers.Dense(2, name="head")(layers.Concatenate()(parts))
    return analyse(canonical(keras.Model(inputs, x)))


def prunable(analysis: Analysis) -> list:
    return [group for group in analysis.groups if group.prunable]


def choices(analysis: Analysis, **limits) -> list[WidthChoices]:
    return WidthLimits(**limits).choices(prunable(analysis))


def norm_errors(analysis: Analysis) -> dict[str, np.ndarray]:
    """The share of the squared kernels that goes with the channels of the smallest ones."""
    errors = {}
    for group in prunable(analysis):
        runs = analysis.producers[group.name]
        kernels = [output_kernel(run.unit)[:, run.start : run.stop] for run in runs]
        norms = np.sort(sum((kernel.astype(np.float64) ** 2).sum(axis=0) for kernel in kernels))
        errors[group.name] = np.concatenate([[0.0], np.cumsum(norms)])[::-1] / norms.sum()
    return errors


def convex_errors(analysis: Analysis, rng: np.random.Generator) -> dict[str, np.ndarray]:
    steps = {g.name: np.sort(rng.uniform(size=g.channels)) for g in prunable(analysis)}
    return {name: np.concatenate([[0.0], np.cumsum(s)])[::-1] for name, s in steps.items()}


def total(errors: dict[str, np.ndarray], widths: dict[str, int]) -> float:
    return sum(errors[name][width] for name, width in widths.items())


def best(model: CostModel, analysis: Analysis, errors: dict[str, np.ndarray], share: float):
    """The smallest error of all widths within the budget."""
    names = [group.name for group in prunable(analysis)]
    ranges = [range(1, group.channels + 1) for group in prunable(analysis)]
    possible = (dict(zip(names, w, strict=True)) for w in itertools.product(*ranges))
    return min(total(errors, w) for w in possible if model.cost(w) <= share * model.whole)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.3, 0.55, 0.9])
def test_global_is_the_optimum_where_all_steps_cost_the_same(seed, share):
    analysis = branches(6, 7, 8)
    errors = convex_errors(analysis, np.random.default_rng(seed))
    model = CostModel(analysis, "params")
    widths = allocate(model, choices(analysis), share, allocation="global", errors=errors)
    assert model.cost(widths) <= share * model.whole
    assert total(errors, widths) == pytest.approx(best(model, analysis, errors, share))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.3, 0.55, 0.9])
def test_global_is_within_a_step_of_the_optimum(seed, share):
    analysis = branches(6, 7, 8, sizes=(2, 9, 30))
    errors = convex_errors(analysis, np.random.default_rng(seed))
    model = CostModel(analysis, "macs")
    widths = allocate(model, choices(analysis), share, allocation="global", errors=errors)
    step = max(-np.diff(curve[1:]).min() for curve in errors.values())
    assert total(errors, widths) <= best(model, analysis, errors, share) + step


def test_global_gets_past_a_cliff():
    analysis = branches(8, 9)
    errors = {
        "d8_0": np.array([9.0, *[1.0] * 7, 0.0]),
        "d9_1": np.arange(9, -1, -1) * 0.3,
    }
    model = CostModel(analysis, "macs")
    widths = allocate(model, choices(analysis), 10 / 17, allocation="global", errors=errors)
    assert widths == {"d8_0": 1, "d9_1": 9}


def test_uniform_takes_one_ratio():
    analysis = branches(10, 20, 40)
    model = CostModel(analysis, "macs")
    assert allocate(model, choices(analysis), 0.5) == {"d10_0": 5, "d20_1": 10, "d40_2": 20}


def test_uniform_gives_back_what_was_rounded_most():
    # Just below a ratio of 0.5, widths are 4, 4 and 3; one more channel fits, and 3 of 7 is nearer.
    analysis = branches(10, 10, 7)
    widths = allocate(CostModel(analysis, "macs"), choices(analysis), 12.5 / 27)
    assert widths == {"d10_0": 5, "d10_1": 4, "d7_2": 3}


SMALL = ("conv_bn", "residual", "gate", "unet", "depthwise", "grouped", "vision_transformer")


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("kind", ["params", "macs"])
@pytest.mark.parametrize("name", SMALL)
def test_the_budget_is_used_as_far_as_steps_allow(name, kind, allocation):
    analysis = analyse(canonical(BUILDERS[name]()))
    model, errors = CostModel(analysis, kind), norm_errors(analysis)
    for share, round_to in itertools.product((0.2, 0.5, 0.8), (None, 2)):
        possible = {choice.name: choice for choice in choices(analysis, round_to=round_to)}
        floor = model.cost({choice.name: choice.lowest for choice in possible.values()})
        target = floor + share * (model.whole - floor)
        options = {"errors": errors, "allocation": allocation}
        widths = allocate(model, list(possible.values()), target / model.whole, **options)
        cost = model.cost(widths)
        assert widths.keys() == possible.keys()
        assert all(width in possible[group].widths for group, width in widths.items())
        steps = {group: possible[group].wider(width) for group, width in widths.items()}
        costs = [cost + model.change(widths, g, wider) for g, wider in steps.items() if wider]
        assert cost <= target
        assert cost >= 0.99 * target or all(cost > target for cost in costs)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_floors_and_ceilings_are_kept(allocation):
    analysis = analyse(canonical(BUILDERS["residual"]()))
    limited = choices(analysis, floors={"stem": 7}, ceilings={"reduce1": 2})
    model, errors = CostModel(analysis, "macs"), norm_errors(analysis)
    widths = allocate(model, limited, 0.5, allocation=allocation, errors=errors)
    assert widths["stem"] >= 7
    assert widths["reduce1"] <= 2


def test_only_selected_groups_are_narrowed():
    analysis = branches(10, 20, 40)
    model = CostModel(analysis, "macs")
    assert allocate(model, choices(analysis)[2:], 0.5) == {"d40_2": 5}


def test_ceilings_below_the_budget_are_the_result():
    analysis = branches(10, 10)
    ceilings = {"d10_0": 3, "d10_1": 3}
    model = CostModel(analysis, "macs")
    assert allocate(model, choices(analysis, ceilings=ceilings), 0.9) == ceilings


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("kind", ["params", "macs"])
def test_a_budget_out_of_reach_names_the_one_in_reach(kind, allocation):
    analysis = analyse(canonical(BUILDERS["gate"]()))
    model, possible = CostModel(analysis, kind), choices(analysis)
    message = {
        "params": r"`params` must be at least 0.1163: .*, 38 of 327 are left. Received: 0.05",
        "macs": r"`macs` must be at least 0.1246: .*, 1,796 of 14,416 are left. Received: 0.05",
    }
    with pytest.raises(ValueError, match=message[kind]):
        check_reachable(model, possible, 0.05)
    check_reachable(model, possible, 0.1247)
    options = {"allocation": allocation, "errors": norm_errors(analysis)}
    nearest = allocate(model, possible, 0.1247, **options)
    assert model.cost(nearest) <= 0.1247 * model.whole


def test_global_needs_errors():
    analysis = branches(4, 4)
    with pytest.raises(ValueError, match="`errors` must be given"):
        allocate(CostModel(analysis, "macs"), choices(analysis), 0.5, allocation="global")


LARGE = ("VGG16", "ResNet50", "EfficientNetB0")


@pytest.mark.parametrize(
    "name", ["MobileNetV2", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
)
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_real_architectures_land_within_a_hundredth_of_the_budget(name, allocation):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3))
    analysis = analyse(canonical(model))
    errors = norm_errors(analysis)
    for kind, shares in (("params", (0.5, 0.35, 0.12)), ("macs", (0.5, 0.2))):
        cost_model = CostModel(analysis, kind)
        for share in shares:
            widths = allocate(
                cost_model, choices(analysis), share, allocation=allocation, errors=errors
            )
            assert 0.99 <= cost_model.cost(widths) / (share * cost_model.whole) <= 1
