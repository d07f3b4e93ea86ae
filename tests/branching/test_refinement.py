from __future__ import annotations

import dataclasses
import importlib
import math

import keras
import numpy as np
import pytest
from helpers.models import build, dtype_policy, randomized
from keras import layers, ops, tree

import keras_branch_prune as kbp
from keras_branch_prune.branching.reconstruction import reconstruct
from keras_branch_prune.branching.refinement import refine
from keras_branch_prune.graph.equivalence import draw_inputs
from keras_branch_prune.layers.channel_map import ChannelMap
from keras_branch_prune.layers.names import is_narrow

# The package's attribute of that name is the function.
refine_module = importlib.import_module("keras_branch_prune.branching.refinement")
SETTINGS = {"epochs": 3, "learning_rate": 3e-3, "batch_size": 16}


@dataclasses.dataclass(frozen=True)
class Case:
    """A branched model, its calibration data and all its weights before the refinement."""

    model: keras.Model
    data: object
    before: dict[str, np.ndarray]

    def moved(self):
        """Names of the layers whose weights are not what they were."""
        return {
            path.split("/")[0]
            for path, value in weights(self.model).items()
            if not np.array_equal(value, self.before[path])
        }


def weights(model):
    values = {weight.path: np.copy(weight.numpy()) for weight in model.weights}
    assert len(values) == len(model.weights)
    return {path: value for path, value in values.items() if not path.startswith("alpha/")}


def prepared(model, samples=160):
    """Branches a model at half the width and reconstructs it on random inputs."""
    branched = kbp.branch(model, kbp.plan(model, width=0.5))
    inputs = tree.flatten(draw_inputs(branched, samples, seed=1))
    arrays = [np.asarray(array) for array in inputs]
    names = [tensor.name for tensor in branched.inputs]
    data = dict(zip(names, arrays, strict=True)) if len(arrays) > 1 else arrays[0]
    reconstruct(branched, data)
    return Case(branched, data, weights(branched))


def output(model, alpha):
    """The outputs on inputs that no test calibrates with."""
    inputs = draw_inputs(model, 32, seed=2)
    before = kbp.get_alpha(model)
    kbp.set_alpha(model, alpha)
    result = [np.asarray(x) for x in tree.flatten(model(inputs, training=False))]
    kbp.set_alpha(model, before)
    return result


def output_error(model):
    """|o − p|² / |o|² of all outputs together."""
    pairs = list(zip(output(model, 1), output(model, 0), strict=True))
    return sum(np.square(o - p).sum() for o, p in pairs) / sum(np.square(o).sum() for o, _ in pairs)


SLOW = ("conv_bn", "flattened_branches", "vision_transformer", "decoder")
BUILDERS = (
    *("residual", "unet", "nested_twice"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_pruned_network_comes_nearer_and_the_original_stays(name):
    case = prepared(build(name))
    original, error = output(case.model, 1), output_error(case.model)
    result = refine(case.model, case.data, **SETTINGS)
    assert len(result.errors) == 4
    assert len(result.losses) == 3
    assert result.errors[result.best] == min(result.errors) < result.errors[0]
    assert output_error(case.model) < error
    assert all(map(np.array_equal, output(case.model, 1), original))
    narrow = {
        layer.name
        for layer in case.model.layers
        if (isinstance(layer, ChannelMap) or is_narrow(layer.name)) and layer.trainable_variables
    }
    assert case.moved() == narrow
    kbp.set_alpha(case.model, 0)
    kbp.merge(case.model)


def test_statistics_stay_and_scales_learn():
    case = prepared(build("conv_bn"))
    refine(case.model, case.data, **SETTINGS)
    norm = {path: value for path, value in weights(case.model).items() if "bn1__pruned" in path}
    stay = {path.split("/")[1] for path, v in norm.items() if np.array_equal(v, case.before[path])}
    assert stay == {"moving_mean", "moving_variance"}


def test_the_errors_are_those_of_the_weights_it_leaves():
    case = prepared(build("mlp"))
    kept = refine(case.model, case.data, **SETTINGS)
    again = refine(case.model, case.data, **SETTINGS | {"learning_rate": 1e-9})
    assert again.errors[0] == pytest.approx(min(kept.errors), rel=1e-5)


def test_the_error_is_the_geometric_mean_over_blends_and_outputs():
    case = prepared(build("conv_bn"), samples=40)
    held_out = np.random.default_rng(5).permutation(40)[:4]
    names = ("conv2__blend", "head__blend", "head")
    tensors = [case.model.get_layer(name).output for name in names]
    inner = keras.Model(case.model.input, tensors)
    o, p = (set_alpha_and_run(case.model, inner, a, case.data[held_out]) for a in (1, 0))
    ratios = [np.square(a - b).sum() / np.square(a).sum() for a, b in zip(o, p, strict=True)]
    expected = math.exp(np.mean(np.log(np.add(ratios, 1e-4))))
    measured = refine(case.model, case.data, epochs=1, seed=5).errors[0]
    assert measured == pytest.approx(expected, rel=1e-4)


def set_alpha_and_run(branched, inner, alpha, inputs):
    kbp.set_alpha(branched, alpha)
    return [np.asarray(x) for x in inner(inputs, training=False)]


@pytest.mark.parametrize("alpha", [1.0, 0.3, 0.0])
def test_alpha_stays(alpha):
    case = prepared(build("mlp"))
    kbp.set_alpha(case.model, alpha)
    refine(case.model, case.data, **SETTINGS)
    assert kbp.get_alpha(case.model) == alpha


def test_the_seed_decides():
    start = prepared(build("mlp"))
    runs = []
    for seed in (1, 1, 2):
        case = prepared(build("mlp"))
        runs.append((refine(case.model, start.data, seed=seed, **SETTINGS), weights(case.model)))
    (first, values), (second, same), (other, different) = runs
    assert first == second
    assert all(np.array_equal(values[path], same[path]) for path in values)
    assert first != other
    assert any(not np.array_equal(values[path], different[path]) for path in values)


def test_training_that_makes_it_worse_leaves_the_start():
    case = prepared(build("mlp"))
    result = refine(case.model, case.data, **SETTINGS | {"learning_rate": 1.0})
    assert result.best == 0
    assert min(result.errors[1:]) > result.errors[0]
    assert case.moved() == set()


def test_the_best_epoch_is_kept_even_if_a_worse_one_follows(monkeypatch):
    case, seen = prepared(build("mlp")), []
    validate = refine_module._Training.validate

    def worse_in_the_end(training, epoch):
        seen.append(weights(case.model))
        return validate(training, epoch) + (10 if epoch == 3 else 0)

    monkeypatch.setattr(refine_module._Training, "validate", worse_in_the_end)
    best = refine(case.model, case.data, **SETTINGS).best
    assert best == 2
    assert all(np.array_equal(v, seen[2][path]) for path, v in weights(case.model).items())


def test_an_error_that_is_not_finite_undoes_everything():
    case = prepared(build("mlp"))
    kbp.set_alpha(case.model, 0.5)
    with pytest.raises(ValueError, match=r"must stay finite.* in epoch 1 at learning_rate=1e\+30"):
        refine(case.model, case.data, **SETTINGS | {"learning_rate": 1e30})
    assert case.moved() == set()
    assert kbp.get_alpha(case.model) == 0.5


def test_no_step_follows_one_that_is_not_finite(monkeypatch):
    case, steps = prepared(build("mlp")), []
    compile_functions = refine_module._compile_functions

    def failing(*args):
        step, measure = compile_functions(*args)
        return lambda inputs: steps.append(step(inputs)) or math.nan, measure

    monkeypatch.setattr(refine_module, "_compile_functions", failing)
    with pytest.raises(ValueError, match="must stay finite.* nan in epoch 1"):
        refine(case.model, case.data, **SETTINGS)
    assert len(steps) == 1
    assert case.moved() == set()


def test_weights_that_are_not_finite_are_found_before_the_first_step():
    case = prepared(build("mlp"))
    case.model.get_layer("hidden1__reduce").kernels[0].assign(np.full((8, 4), np.nan))
    with pytest.raises(ValueError, match="must stay finite.* nan in epoch 0"):
        refine(case.model, case.data, **SETTINGS)


def test_any_exception_undoes_everything(monkeypatch):
    case = prepared(build("mlp"))

    def interrupted(training, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return 1.0

    monkeypatch.setattr(refine_module._Training, "validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        refine(case.model, case.data, **SETTINGS)
    assert case.moved() == set()
    assert kbp.get_alpha(case.model) == 1


def test_a_generator_is_read_once_and_no_batch_size_is_traced_again(monkeypatch):
    case, traces = prepared(build("mlp"), samples=50), []
    squares = refine_module._squares
    monkeypatch.setattr(
        refine_module, "_squares", lambda *tensors: traces.append(1) or squares(*tensors)
    )
    parts = (batch for batch in np.split(case.data, [7, 8, 30]))
    from_parts = refine(case.model, parts, **SETTINGS)
    assert len(traces) == 2
    assert next(parts, None) is None
    again = prepared(build("mlp"), samples=50)
    assert refine(again.model, again.data, **SETTINGS) == from_parts


def test_data_beyond_memory_gives_the_same():
    runs = [
        refine(case.model, case.data, memory_mib=mib, **SETTINGS)
        for mib in (256, 0)
        for case in [prepared(build("mlp"))]
    ]
    assert runs[0] == runs[1]


def test_samples_of_different_lengths():
    x = inputs = keras.Input((None, 3))
    x = layers.Conv1D(8, 3, padding="same", activation="relu")(x)
    x = layers.Conv1D(6, 3, padding="same")(x)
    model = randomized(keras.Model(inputs, layers.Dense(2)(layers.GlobalMaxPooling1D()(x))))
    branched = kbp.branch(model, kbp.plan(model, width=0.5))
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(25, length, 3)) for length in (5, 7, 5, 9)]
    reconstruct(branched, iter(data))
    result = refine(branched, iter(data), **SETTINGS | {"learning_rate": 3e-4})
    assert min(result.errors) < result.errors[0]


def test_outputs_that_are_integers_do_not_count():
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    scores = layers.Dense(3, name="head")(x)
    models = [keras.Model(inputs, o) for o in ([ops.argmax(scores, axis=-1), scores], [scores])]
    randomized(models[0])
    cases = [prepared(model) for model in models]
    results = [refine(case.model, case.data, **SETTINGS) for case in cases]
    assert results[0] == results[1]


def test_masked_steps_do_not_count():
    errors = []
    for masked_value in (0.0, 1e3):
        tokens = keras.Input((6,), dtype="int32")
        x = layers.Embedding(7, 8, mask_zero=True, name="table")(tokens)
        x = layers.Dense(8, activation="relu", name="hidden")(x)
        model = randomized(keras.Model(tokens, layers.Dense(3, name="head")(x)))
        table = model.get_layer("table").embeddings
        table.assign(np.concatenate([np.full((1, 8), masked_value), table.numpy()[1:]]))
        branched = kbp.branch(model, kbp.plan(model, width=0.5))
        data = np.random.default_rng(0).integers(0, 7, (40, 6))
        errors.append(refine(branched, data, **SETTINGS).errors[0])
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


def test_tensors_that_are_already_exact():
    model = build("mlp")
    for layer, dead in (("hidden1", slice(4, None)), ("hidden2", slice(3, None))):
        kernel, bias = model.get_layer(layer).get_weights()
        kernel[:, dead] = bias[dead] = 0
        model.get_layer(layer).set_weights([kernel, bias])
    case = prepared(model)
    result = refine(case.model, case.data, **SETTINGS)
    assert result.errors[0] == pytest.approx(1e-4, rel=0.3)
    assert min(result.errors) <= result.errors[0]


@pytest.mark.parametrize(("policy", "scaled"), [("mixed_float16", 1), ("mixed_bfloat16", 0)])
def test_mixed_precision(policy, scaled, monkeypatch):
    scalers, scaler = [], keras.optimizers.LossScaleOptimizer
    monkeypatch.setattr(
        keras.optimizers,
        "LossScaleOptimizer",
        lambda *args: scalers.append(scaler(*args)) or scalers[-1],
    )
    with dtype_policy(policy):
        case = prepared(build("mlp"))
        result = refine(case.model, case.data, **SETTINGS)
    assert min(result.errors) < result.errors[0]
    assert len(scalers) == scaled


def test_layers_that_are_frozen_stay():
    case = prepared(build("mlp"))
    for name in ("hidden1__reduce", "head__expand"):
        case.model.get_layer(name).trainable = False
    refine(case.model, case.data, **SETTINGS)
    assert case.moved() == {"hidden2__expand", "hidden2__reduce"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "`epochs` must be an integer of at least 1. Received: epochs=0"),
        (
            {"batch_size": 2.5},
            "`batch_size` must be an integer .* batch_size=2.5",
        ),
        ({"learning_rate": 0}, "`learning_rate` must be a positive number. Received: learning_r"),
        ({"learning_rate": math.nan}, "`learning_rate` must be a positive number"),
    ],
)
def test_arguments_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        refine(build("mlp"), None, **settings)


def test_models_without_a_pruned_branch_are_refused():
    with pytest.raises(ValueError, match="not a branched model"):
        refine(build("mlp"), np.zeros((4, 6)))
    case = prepared(build("mlp"))
    case.model.trainable = False
    with pytest.raises(ValueError, match="`branched` must have maps or narrow layers"):
        refine(case.model, case.data)


def test_one_sample_is_too_few():
    case = prepared(build("mlp"), samples=2)
    with pytest.raises(ValueError, match="`data` must have at least two samples.* Received: 1"):
        refine(case.model, case.data[:1])
    assert kbp.get_alpha(case.model) == 1
