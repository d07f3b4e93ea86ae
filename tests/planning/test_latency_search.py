from __future__ import annotations

import keras
import pytest
from helpers.models import build
from keras import layers

from keras_branch_prune.benchmarking.result import BenchmarkResult
from keras_branch_prune.benchmarking.timing import Timing, VariantResult
from keras_branch_prune.planning import latency_search as latency
from keras_branch_prune.planning.latency_search import (
    LatencySearch,
    latency_share,
    meet_latency,
    share_of_milliseconds,
)

LAWS = {
    "linear": lambda x: x,
    "overhead": lambda x: 0.1 + 0.9 * x,
    "more overhead": lambda x: 0.2 + 0.8 * x,
    "square root": lambda x: x**0.5,
    "square": lambda x: x**2,
    "steps": lambda x: 0.05 + 0.95 * round(x * 50) / 50,
}


def search(law, target, **options) -> LatencySearch:
    """A search where a model is its cost share, and its latency is a law of that."""
    return meet_latency(
        lambda cost_share: cost_share, "original", target, measure=lambda _, x: law(x), **options
    )


@pytest.mark.parametrize("target", [0.25, 0.4, 0.7, 0.95])
@pytest.mark.parametrize("name", LAWS)
def test_targets_are_met(name, target):
    found = search(LAWS[name], target)
    assert found.met
    assert LAWS[name](found.cost_share) == pytest.approx(target, rel=0.05)
    assert len(found.measured) <= 6
    assert all(0 < cost_share < 1 for cost_share, _ in found.measured)


def test_the_first_guess_is_the_target_and_a_hit_ends_the_search():
    assert search(LAWS["linear"], 0.3).measured == ((0.3, 0.3),)


def test_the_second_guess_lies_on_the_line_to_the_original():
    found = search(LAWS["overhead"], 0.3)
    assert found.measured[0] == (0.3, pytest.approx(0.37))
    assert found.measured[1] == (pytest.approx(2 / 9), pytest.approx(0.3))
    assert found.cost_share == found.measured[1][0]


def test_noise_is_lived_with():
    noise = iter([1.1, 0.93, 1.08, 0.95, 1.0, 1.0])
    found = search(lambda x: (0.1 + 0.9 * x) * next(noise), 0.4)
    assert found.met


def test_a_target_out_of_reach_ends_at_the_lowest_cost_share():
    found = search(lambda x: 0.5 + 0.5 * x, 0.3, lowest=0.05)
    assert not found.met
    assert found.cost_share == 0.05
    assert len(found.measured) == 3


def test_the_number_of_measurements_is_limited():
    found = search(lambda x: 0.5 if x > 0.123 else 0.2, 0.3, measurements=4)
    assert not found.met
    assert len(found.measured) == 4


def test_a_compact_model_slower_than_the_original_does_not_lead_astray():
    found = search(lambda x: 1.4 - x if x > 0.2 else 2.5 * x, 0.3)
    assert found.measured[0] == (0.3, pytest.approx(1.1))
    assert found.measured[1][0] == pytest.approx(0.1)
    assert found.met


def test_a_latency_that_never_changes_is_not_divided_by():
    found = search(lambda x: 1.0, 0.5)
    assert not found.met
    assert found.latency_share == 1.0
    assert [cost for cost, _ in found.measured[:2]] == [0.5, pytest.approx(0.5 / 3)]


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (1.0, {}, r"`target` must be a number in \(0, 1\). Received: target=1.0"),
        (float("nan"), {}, "`target` .* Received: target=nan"),
        (0.5, {"lowest": 1.0}, r"`lowest` must be a number in \[0, 1\). Received: lowest=1.0"),
        (
            0.5,
            {"measurements": 0},
            "`measurements` must be an integer .* Received: measurements=0",
        ),
    ],
)
def test_bad_arguments(target, options, message):
    with pytest.raises(ValueError, match=message):
        search(LAWS["linear"], target, **options)


@pytest.mark.slow
def test_a_share_is_measured():
    inputs = keras.Input((3,))
    compact = keras.Model(inputs, layers.Dense(2)(inputs))
    options = {"rounds": 1, "seconds": 1e-6, "threads": 1}
    assert latency_share(build("mlp"), compact, **options) > 0


def test_milliseconds_become_a_share(monkeypatch):
    def measured(models, batch_sizes, threads, devices, rounds, peak):
        assert (list(models), batch_sizes, threads) == (["original"], [4], 2)
        assert (devices, rounds, peak) == (["cpu"], 3, False)
        timing = Timing("cpu", 4, p50_ms=8.0, p95_ms=9.0, rounds_ms=(8.0,))
        return BenchmarkResult((VariantResult("original", 1, 1, (), {}, (timing,)),), {})

    monkeypatch.setattr(latency, "benchmark", measured)
    options = {"batch_size": 4, "threads": 2, "rounds": 3}
    assert share_of_milliseconds(build("mlp"), 2.0, **options) == 0.25
    for milliseconds in (8.0, 0.0):
        with pytest.raises(ValueError, match=f"'mlp', 8 ms per .* Received: {milliseconds} ms"):
            share_of_milliseconds(build("mlp"), milliseconds, **options)
