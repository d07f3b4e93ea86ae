"""Targets: exactly one, in its range."""

from __future__ import annotations

import pytest
from helpers.models import build

import keras_branch_prune as kbp

NAMED = "`width`, `params`, `macs`, `latency` must be given"


@pytest.mark.parametrize(
    ("options", "received"),
    [({}, "none"), ({"width": 0.5, "macs": 0.5}, "width, macs"), ({"params": 1, "latency": 1}, "")],
)
def test_there_is_one_target(options, received):
    with pytest.raises(ValueError, match=f"{NAMED}. Received: {received}"):
        kbp.plan(build("mlp"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "takes either `share` or .* Received: share=None, milliseconds=None"),
        ({"share": 0.5, "milliseconds": 3.0}, "Received: share=0.5, milliseconds=3.0"),
        ({"share": 2}, r"`share` must be a number in \(0, 1\). Received: share=2"),
        ({"milliseconds": 0}, "`milliseconds` must be a positive number. Received: milliseconds=0"),
        ({"milliseconds": "5"}, "`milliseconds` must be .* Received: milliseconds='5'"),
        ({"milliseconds": float("inf")}, "`milliseconds` must be .* Received: milliseconds=inf"),
        (
            {"share": 0.5, "batch_size": 0},
            "`batch_size` must be an integer of at least 1. .*=0",
        ),
        ({"share": 0.5, "batch_size": None}, "`batch_size` must be .* Received: batch_size=None"),
        (
            {"share": 0.5, "threads": 0},
            "`threads` must be an integer of at least 1. .*=0",
        ),
    ],
)
def test_bad_latencies(options, message):
    with pytest.raises(ValueError, match=message):
        kbp.Latency(**options)
