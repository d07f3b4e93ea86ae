import dataclasses
import json

import pytest

from keras_branch_prune.benchmarking.result import BenchmarkResult
from keras_branch_prune.benchmarking.timing import Peak, Timing, VariantResult


def _variant(name, macs, **cases):
    """A variant with a number of milliseconds per round, by backend."""
    timings = tuple(
        Timing("cpu", 1, rounds[0], rounds[0], rounds, 1.0, None, backend, 1)
        for backend, rounds in cases.items()
    )
    return VariantResult(name, 10, macs, (), dict.fromkeys(cases, 1.0), timings)


SLOW = _variant("slow", 8_000_000, keras=(9.0, 8.0, 9.0), litert=(4.0, 5.0, 6.0))
FAST = _variant("fast", 2_000_000, keras=(3.0, 4.0, 1.0), litert=(1.0, 1.0, 1.0))
RESULT = BenchmarkResult((SLOW, FAST), {}, (Peak("cpu", 1, 8.0),))


def test_speedup_is_the_median_over_the_rounds():
    assert RESULT.speedup(1) == 3.0
    assert RESULT.speedup(1, "slow") == 1.0
    assert RESULT.speedup(1, backend="litert", threads=1) == 5.0
    assert RESULT.speedup_range(1) == (2.0, 9.0)
    assert RESULT.speedup_range(1, backend="litert") == (4.0, 6.0)


def test_the_variant_must_be_named_if_there_are_three():
    three = BenchmarkResult((SLOW, FAST, dataclasses.replace(FAST, name="third")), {})
    assert three.speedup(1, variant="third") == 3.0
    with pytest.raises(KeyError, match=r"`variant` must be one of .* Received: None"):
        three.speedup(1)


def test_a_variant_is_compared_by_a_backend_that_it_has():
    exported = _variant("exported", None, litert=(2.0, 1.0, 1.0))
    assert BenchmarkResult((SLOW, exported), {}).speedup(1) == 5.0
    with pytest.raises(KeyError, match=r"'exported' was measured at .*'litert', 1"):
        BenchmarkResult((exported, SLOW), {}).speedup(1)
    with pytest.raises(KeyError, match=r"Received: \(7, 'cpu', None, None\)"):
        RESULT.speedup(7)


def test_the_interval_leaves_out_what_its_confidence_allows():
    rounds = tuple(float(value) for value in (12, *range(1, 12), *range(13, 21)))
    many = _variant("many", 1, keras=rounds)
    one = _variant("one", 1, keras=(1.0,) * 20)
    result = BenchmarkResult((many, one), {})
    assert result.speedup(1) == 10.5
    assert result.speedup_interval(1) == (6.0, 15.0)
    assert result.speedup_interval(1, confidence=0.99) == (4.0, 17.0)
    assert RESULT.speedup_interval(1, backend="litert") == (4.0, 6.0)


def test_ratio_of_the_macs():
    assert RESULT.macs_ratio() == 4.0
    assert RESULT.macs_ratio("slow") == 1.0
    unknown = dataclasses.replace(FAST, macs=None)
    assert BenchmarkResult((SLOW, unknown), {}).macs_ratio() is None
    assert BenchmarkResult((unknown, SLOW), {}).macs_ratio() is None


def test_utilisation():
    # 16 MFLOP in 4 ms are half of 8 GFLOP/s.
    assert RESULT.utilisation(1, "slow", backend="litert") == 0.5
    assert RESULT.utilisation(1, backend="litert") == 0.5
    assert RESULT.utilisation(1, "slow", threads=1) == pytest.approx(16 / 9 / 8)
    assert BenchmarkResult((SLOW, FAST), {}).utilisation(1) is None


def test_json_round_trip():
    result = dataclasses.replace(RESULT, environment={"CPU": "x", "GPU": None})
    data = json.loads(json.dumps(result.to_json()))
    assert (data["variants"][0]["timings"][1]["backend"], data["peaks"][0]["gflops"]) == (
        "litert",
        8.0,
    )
    assert BenchmarkResult.from_json(data) == result
