import math

import pytest

from keras_branch_prune.benchmarking.timing import (
    Peak,
    Timing,
    VariantResult,
    coverage,
    make_timing,
    median_interval,
    speedups,
    utilisation,
)


def test_make_timing_pools_rounds_and_divides_by_the_batch():
    memory = {"ram_mib": 5.0, "vram_mib": None}
    timing = make_timing("cpu", 2, [[2.0, 4.0, 6.0], [8.0]], memory, "litert", 3)
    assert timing == Timing("cpu", 2, 2.5, 4.0, (2.0, 4.0), 5.0, None, "litert", 3)


def _timing(backend, threads, batch_size=1, device="cpu"):
    return Timing(device, batch_size, 1.0, 1.0, (1.0,), backend=backend, threads=threads)


def test_a_timing_is_found_by_what_it_depends_on():
    timings = (
        _timing("keras", 2),
        _timing("keras", None),
        _timing("litert", 2),
        _timing("litert", 1),
        _timing("litert", 2, batch_size=8),
        _timing("saved_model", 2, device="gpu"),
    )
    find = VariantResult("v", None, None, (), {}, timings).timing
    assert find(1) is timings[1]
    assert find(1, threads=2) is timings[0]
    assert find(1, backend="litert") is timings[2]
    assert find(1, "cpu", "litert", 1) is timings[3]
    assert find(8) is timings[4]
    assert find(1, "gpu") is timings[5]
    for wrong in ({"batch_size": 2}, {"backend": "onnxruntime"}, {"threads": 3}):
        with pytest.raises(KeyError, match=r"'v' was measured at .* Received: \(\d, 'cpu', "):
            find(**{"batch_size": 1, **wrong})


def test_speedups_are_those_of_the_rounds():
    slow = Timing("cpu", 1, 9.0, 9.0, (3.0, 4.0))
    fast = Timing("cpu", 1, 9.0, 9.0, (1.0, 8.0))
    assert speedups(slow, fast) == [3.0, 0.5]


@pytest.mark.parametrize(
    ("count", "confidence", "ranks"),
    [
        (1, 0.95, (1, 1)),
        (2, 0.95, (1, 2)),
        (5, 0.95, (1, 5)),  # 93.75 %: all there is
        (6, 0.95, (1, 6)),
        (7, 0.95, (1, 7)),  # the next one, (2, 6), has 87.5 %
        (7, 0.875, (2, 6)),
        (8, 0.95, (1, 8)),
        (9, 0.95, (2, 8)),  # 96.1 %
        (20, 0.95, (6, 15)),  # 95.9 %
        (20, 0.99, (4, 17)),
        (7, 0.001, (3, 5)),  # the middle one alone has 0 %
    ],
)
def test_median_interval_is_made_of_order_statistics(count, confidence, ranks):
    shuffled = sorted(range(1, count + 1), key=lambda value: (value * 7) % 11)
    assert median_interval(shuffled, confidence) == ranks


def test_coverage():
    assert coverage(7) == 1 - 2 / 128
    assert coverage(7, 2) == 1 - 2 * 8 / 128
    assert coverage(20, 6) == pytest.approx(0.9586, abs=5e-5)
    assert coverage(5) < 0.95 < coverage(6)


@pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan])
def test_a_confidence_that_is_none(confidence):
    with pytest.raises(ValueError, match=r"`confidence` must be a number in \(0, 1\). Received: "):
        median_interval([1.0], confidence)


def test_utilisation():
    variant = VariantResult("v", 1, 3_000_000, (), {}, ())
    timing = Timing("cpu", 64, 2.0, 2.0, (1.0,), threads=2)  # 6 MFLOP per image in 2 ms
    peaks = (Peak("gpu", 2, 1.0), Peak("cpu", 1, 1.0), Peak("cpu", 2, 12.0))
    assert utilisation(variant, timing, peaks) == 0.25
    assert utilisation(variant, timing, peaks[:2]) is None
    assert utilisation(VariantResult("v", 1, None, (), {}, ()), timing, peaks) is None
