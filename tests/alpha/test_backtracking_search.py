"""The search for steps of α: metrics in, steps out."""

import math

import numpy as np
import pytest

from keras_branch_prune.alpha.backtracking_search import BacktrackingSearch, Verdict

GOOD, BAD, NAN = 0.9, 0.5, math.nan
A, F, W, T, G = (Verdict(v) for v in ("accept", "finish", "wait", "take back", "give up"))


def run(metrics, alpha=1.0, search=None, **options):
    """Judges a sequence of metrics; returns verdicts, the α that follows each, and the search."""
    search = search or BacktrackingSearch(**options)
    verdicts, alphas, waited = [], [], 0
    for metric in metrics:
        waited += 1
        verdict, alpha = search.judge(metric, alpha, waited)
        waited = waited if verdict is W else 0
        verdicts.append(verdict)
        alphas.append(alpha)
    return verdicts, alphas, search


@pytest.mark.parametrize(
    ("options", "metrics", "verdicts", "alphas", "step"),
    [
        # Two steps, then larger ones; the third would be below 0. At 0 it must be good once more.
        ({"step_size": 0.2}, [GOOD] * 5, [A, A, A, A, F], [0.8, 0.6, 0.2, 0.0, 0.0], 0.4),
        ({"growth": 1.0}, [GOOD] * 3, [A] * 3, [0.9, 0.8, 0.7], 0.1),
        ({"successes": 1, "step_size": 0.05}, [GOOD] * 3, [A] * 3, [0.95, 0.85, 0.65], 0.2),
        # A step recovers in time; the first one needs no series.
        ({}, [GOOD, BAD, BAD, GOOD], [A, W, W, A], [0.9, 0.9, 0.9, 0.8], 0.1),
        # It does not: half of it is tried from the last good α, and the series begins anew.
        (
            {"patience": 2},
            [GOOD, GOOD, BAD, BAD, GOOD, GOOD],
            [A, A, W, T, A, A],
            [0.9, 0.8, 0.8, 0.85, 0.8, 0.7],
            0.1,
        ),
        # Half of a step that was cut short at 0 leads to 0 again: smaller ones are tried.
        (
            {"step_size": 0.8, "patience": 1},
            [GOOD, GOOD, BAD, GOOD],
            [A, A, T, A],
            [0.2, 0.0, 0.1, 0.0],
            0.1,
        ),
        # Snapped to 0.
        ({"step_size": 0.5, "threshold": 0.5}, [GOOD, GOOD], [A, F], [0.0, 0.0], 0.5),
        # Too small a step: back to the last good α.
        (
            {"patience": 1, "min_step": 0.05},
            [GOOD, GOOD, BAD, BAD],
            [A, A, T, G],
            [0.9, 0.8, 0.85, 0.9],
            0.025,
        ),
        ({"step_size": 0.98, "patience": 1}, [GOOD, GOOD, BAD], [A, A, G], [0.02, 0.0, 0.02], None),
        # A series of steps at 0 that fail: also α = 0 must prove itself.
        ({"step_size": 1.0, "patience": 1}, [GOOD, BAD, GOOD], [A, T, A], [0.0, 0.5, 0.0], 0.5),
        # Divergence takes a step back at once, and is waited out where there is none.
        ({}, [GOOD, NAN, GOOD], [A, T, A], [0.9, 0.95, 0.9], 0.05),
        ({"patience": 1}, [math.inf, NAN, GOOD], [W, W, A], [1.0, 1.0, 0.9], 0.1),
        ({"mode": "min"}, [1.0, -math.inf], [A, T], [0.9, 0.95], 0.05),
        # A drop of exactly `max_drop` is tolerated, in float32.
        ({}, [0.9, 0.88, np.float32(0.88), 0.879], [A, A, A, W], [0.9, 0.8, 0.6, 0.6], 0.2),
        ({"max_drop": 0.0}, [0.9, 0.9, 0.8999], [A, A, W], [0.9, 0.8, 0.8], 0.1),
        ({"mode": "min"}, [1.0, 1.01, 1.03, 0.5], [A, A, W, A], [0.9, 0.8, 0.8, 0.6], 0.2),
        # The reference is the best value at α = 1, not a better one later on, or the one given.
        ({}, [0.9, 0.99, 0.9], [A, A, A], [0.9, 0.8, 0.6], 0.2),
        ({"reference": 0.95}, [0.9, 0.9, 0.94], [W, W, A], [1.0, 1.0, 0.9], 0.1),
    ],
)
def test_sequences(options, metrics, verdicts, alphas, step):
    actual, following, search = run(metrics, **options)
    assert actual == verdicts
    assert following == alphas
    if step is not None:
        assert search.step == pytest.approx(step, rel=1e-12)


def test_without_a_step_nothing_is_taken_back():
    verdicts, alphas, search = run([BAD] * 9, reference=GOOD, patience=2)
    assert set(verdicts) == {W}
    assert set(alphas) == {1.0}
    assert (search.step, search.series) == (0.1, 0)


def test_the_best_value_at_the_start_is_the_reference():
    _, _, search = run([0.8], patience=1)
    assert search.best_at_start == 0.8
    search.judge(0.85, 1.0, waited=1)
    search.judge(0.7, 1.0, waited=1)
    search.judge(0.99, 0.9, waited=1)
    assert search.best_at_start == 0.85
    assert search.worst_tolerated == pytest.approx(0.83)
    assert math.isnan(BacktrackingSearch().worst_tolerated)


def test_zero_that_was_found_good_is_forgotten_above_zero():
    _, _, search = run([GOOD, GOOD], step_size=1.0)
    assert search.reached_zero
    assert search.judge(BAD, 0.5, waited=9) == (W, 0.5)  # Set by hand: no step to take back.
    assert not search.reached_zero


def test_restarts_after_having_given_up():
    _, alphas, search = run([GOOD, BAD], step_size=0.2, min_step=0.2, patience=1)
    assert search.gave_up
    search.restart()
    assert not search.gave_up
    verdicts, alphas, _ = run([BAD, BAD, GOOD], alphas[-1], search)
    # At the last good α no step is under trial that could be taken back.
    assert (verdicts, alphas) == ([W, W, A], [1.0, 1.0, 0.8])


@pytest.mark.parametrize("growth", [1.0, 2.0, 10.0])
@pytest.mark.parametrize("step_size", [0.07, 0.3, 1.0])
def test_ends_at_zero_or_gives_up(step_size, growth):
    """Whatever the metric does, the search ends, and α is 0 or one that was good."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        metrics = rng.choice([GOOD, BAD, NAN], p=[0.5, 0.4, 0.1], size=4000)
        search = BacktrackingSearch(step_size, reference=GOOD, growth=growth)
        alpha, waited = 1.0, 0
        for metric in metrics:
            waited += 1
            verdict, alpha = search.judge(metric, alpha, waited)
            waited = waited if verdict is W else 0
            assert 0 <= alpha <= 1
            if verdict in (F, G):
                break
        assert (search.reached_zero, search.gave_up) == (verdict is F, verdict is G)
        assert verdict in (F, G)
