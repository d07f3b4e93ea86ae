"""What the benchmark calls masking is the same function as the compact model, at other shapes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from helpers.export_cases import CASES, build

import keras_branch_prune as kbp
from keras_branch_prune.graph.equivalence import draw_inputs, relative_error

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "_masking.py"


def load_script():
    """Returns the module by its path: the benchmarks are scripts, not a package."""
    spec = importlib.util.spec_from_file_location("masking", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_masked_channels_are_those_that_pruning_removes():
    masked = load_script().masked
    model = build(CASES, "vgg16")
    plan = kbp.plan(model, width=0.5)
    zeros, inputs = masked(model, plan), draw_inputs(model, 3)
    compact = kbp.select(model, plan)(inputs, training=False)
    assert relative_error(compact, zeros(inputs, training=False)) <= 1e-5
    assert relative_error(compact, model(inputs, training=False)) > 1e-2
    assert [x.shape for x in zeros.weights] == [x.shape for x in model.weights]
    assert np.count_nonzero(zeros.get_layer("block1_conv1").kernel.numpy().any((0, 1, 2))) == 2
