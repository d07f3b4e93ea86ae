from __future__ import annotations

import dataclasses
import functools
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.three_classes import RECIPE, TEST, TRAIN, VALIDATION, compile_, prune, untrained
from keras import layers

import keras_branch_prune as kbp
from keras_branch_prune.pruning.trainer import Trainer
from keras_branch_prune.training import batch_statistics

SAME_PRECISION = {"rtol": 0, "atol": 1e-6}


class Killed(BaseException):
    """Ends a run like a signal: no `except Exception` sees it."""


class KillAt(keras.callbacks.Callback):
    """Ends the run at the end of the n-th epoch from now on, over all stages."""

    def __init__(self, epochs):
        super().__init__()
        self.left = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise Killed

    def on_train_batch_end(self, batch, logs=None):
        if self.left == 1 and batch == 2:
            raise Killed


@pytest.fixture(scope="module")
def undisturbed(original, tmp_path_factory):
    return prune(original, tmp_path_factory.mktemp("undisturbed") / "run", test=TEST)


def test_the_result_is_compact_and_as_good(original, undisturbed):
    assert undisturbed.model.get_layer("conv1").filters == 8
    assert undisturbed.model.get_layer("conv2").filters == 6
    before, after = undisturbed.metrics["original"], undisturbed.metrics["compact"]
    assert list(before) == list(after)
    assert {"val_accuracy", "val_loss", "test_accuracy", "parameters", "macs"} <= set(before)
    assert after["parameters"] == undisturbed.model.count_params()
    assert after["macs"] < before["macs"]
    assert after["val_accuracy"] >= before["val_accuracy"] - 0.1 > 0.8


def test_the_metrics_are_those_of_the_models(original, undisturbed):
    for name, model in (("original", original), ("compact", undisturbed.model)):
        logits = model.predict(TEST[0], verbose=0)
        accuracy = (logits.argmax(-1) == TEST[1]).mean()
        assert undisturbed.metrics[name]["test_accuracy"] == pytest.approx(accuracy)


def test_the_model_is_left_alone(original, tmp_path):
    weights, optimizer = original.get_weights(), original.optimizer
    prune(original, tmp_path / "run", recipe=dataclasses.replace(RECIPE, finetune_epochs=0))
    assert original.optimizer is optimizer
    for before, after in zip(weights, original.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_alpha_falls_in_the_first_stage_and_epochs_are_counted(undisturbed):
    alphas = [row["alpha"] for row in undisturbed.history["branched"]]
    assert alphas == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert [row["epoch"] for row in undisturbed.history["compact"]] == [0, 1, 2]
    rates = [row["learning_rate"] for row in undisturbed.history["compact"]]
    assert rates[0] == pytest.approx(0.02)
    assert rates == sorted(rates, reverse=True)


def test_the_folder_holds_everything(undisturbed):
    names = {path.name for path in undisturbed.folder.iterdir()}
    stages = {
        f"{n}{s}" for n in ("start", "branched", "compact") for s in (".keras", ".history.json")
    }
    others = {"settings.json", "plan.json", "result.json", "table.txt", "compact_saved_model"}
    assert names == stages | others
    assert kbp.PruningPlan.load(undisturbed.folder / "plan.json") == undisturbed.plan
    assert (undisturbed.folder / "table.txt").read_text() == f"{undisturbed}\n"
    assert "val_accuracy" in str(undisturbed)
    assert json.loads((undisturbed.folder / "settings.json").read_text())["batch_size"] == 16


def test_a_finished_run_is_only_loaded(original, undisturbed, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("trained again"))
    again = prune(original, undisturbed.folder, test=TEST)
    assert again.metrics == undisturbed.metrics
    assert again.history == undisturbed.history
    for one, other in zip(again.model.get_weights(), undisturbed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    # In the middle of each stage; at the ends of the stages less can be lost.
    "epochs",
    [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5, 6, 8)), 3],
)
def test_what_was_killed_goes_on(original, undisturbed, tmp_path, epochs):
    folder, killer = tmp_path / "run", KillAt(epochs)
    with pytest.raises(Killed):
        prune(original, folder, callbacks=lambda: [killer])
    resumed = prune(original, folder)
    assert resumed.plan == undisturbed.plan
    for stage in ("branched", "compact"):
        rows, expected = resumed.history[stage], undisturbed.history[stage]
        assert [row["epoch"] for row in rows] == [row["epoch"] for row in expected]
    alphas = [row["alpha"] for row in resumed.history["branched"]]
    assert alphas == [row["alpha"] for row in undisturbed.history["branched"]]
    rates = [row["learning_rate"] for row in resumed.history["compact"]]
    assert rates == [row["learning_rate"] for row in undisturbed.history["compact"]]


def test_other_arguments_need_another_folder(original, undisturbed):
    with pytest.raises(ValueError, match=r"other settings \(width: '0.5' -> '0.25'\)"):
        prune(original, undisturbed.folder, width=0.25)
    with pytest.raises(ValueError, match=r"other settings \(alpha: .AlphaLinearDecay"):
        prune(original, undisturbed.folder, alpha=kbp.AlphaStepDecay(0.5))
    other = untrained(original)
    compile_(other)
    with pytest.raises(ValueError, match=r"other settings \(model: .tiny, weights"):
        prune(other, undisturbed.folder)


@pytest.mark.slow
def test_datasets_do_as_well_as_arrays(original, tmp_path):
    train = tf.data.Dataset.from_tensor_slices(TRAIN).batch(16)
    validation = tf.data.Dataset.from_tensor_slices(VALIDATION).batch(16)
    recipe = dataclasses.replace(RECIPE, finetune_epochs=1)
    result = kbp.prune(
        original,
        train,
        validation,
        output_dir=tmp_path / "run",
        recipe=recipe,
        alpha=kbp.AlphaStepDecay(0.5),
        macs=0.6,
        verbose=0,
    )
    made = dict(result.plan.target)
    assert made["calibration"].startswith("64 samples")
    assert result.metrics["compact"]["macs"] <= 0.6 * result.metrics["original"]["macs"]


def test_alpha_must_reach_zero(original, tmp_path):
    slow = dataclasses.replace(RECIPE, blend_epochs=2)
    with pytest.raises(RuntimeError, match=r"α is still 0.6 after at most 2 epochs"):
        prune(original, tmp_path / "run", recipe=slow)


def test_a_diverging_run_stops_and_keeps_what_was_good(original, tmp_path):
    wild = dataclasses.replace(RECIPE, blend_learning_rate=1e12)
    diverged = pytest.warns(UserWarning, match="Training diverged in epoch 1")
    with diverged, pytest.raises(RuntimeError, match="the loss was not finite in epoch 1"):
        prune(original, tmp_path / "run", recipe=wild)
    assert (tmp_path / "run" / "start.keras").exists()
    assert not (tmp_path / "run" / "branched.keras").exists()


def test_a_model_must_be_compiled(original, tmp_path):
    bare = untrained(original)
    with pytest.raises(ValueError, match="`model` must be compiled with a loss"):
        prune(bare, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_compiling_can_be_given(original, tmp_path):
    recipe = dataclasses.replace(RECIPE, finetune_epochs=1)
    bare = untrained(original)
    alpha = kbp.AlphaStepDecay(1.0)
    prune(bare, tmp_path / "run", compile=compile_, recipe=recipe, alpha=alpha)


def test_alpha_must_be_a_callback(original, tmp_path):
    with pytest.raises(TypeError, match="`alpha` must be an α callback .* Received: 0.1"):
        prune(original, tmp_path / "run", alpha=0.1)


def test_the_recipe_says_how_to_begin(original, tmp_path):
    recipe = kbp.Recipe(blend_epochs=1, finetune_epochs=0, calibration_samples=64, batch_size=16)
    recipe = dataclasses.replace(recipe, refine=True, stochastic=True, train_original=False)
    prune(original, tmp_path / "run", recipe=recipe, alpha=kbp.AlphaStepDecay(1.0))
    start = kbp.load_model(tmp_path / "run" / "start.keras", compile=False)
    blends = [layer for layer in start.layers if isinstance(layer, kbp.AlphaBlend)]
    assert [(blend.stochastic, blend.seed) for blend in blends] == [(True, 0), (True, 1)]
    assert not start.get_layer("conv1").trainable
    plan = kbp.PruningPlan.load(tmp_path / "run" / "plan.json")
    images = Trainer(compile_, TRAIN, None, recipe).calibration()
    fitted = kbp.branch(original, plan, calibration=images)
    expected = fitted.get_layer("conv2__reduce").kernels[0].numpy()
    assert np.abs(start.get_layer("conv2__reduce").kernels[0].numpy() - expected).max() > 1e-4


def test_refining_needs_data(original, tmp_path):
    recipe = dataclasses.replace(RECIPE, refine=True, calibration_samples=0)
    with pytest.raises(ValueError, match="`refine` needs samples"):
        prune(original, tmp_path / "run", recipe=recipe)
    assert not (tmp_path / "run").exists()


def two_normalizations():
    """A model whose second normalization reads a blend, so that its statistics depend on α."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, name="conv1")(inputs)))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, name="conv2")(x)))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    compile_(model)
    return model


def lag(folder, recipe):
    """Returns by how much re-estimating changes the statistics that a run has left at α = 0."""
    options = {"recipe": recipe, "alpha": kbp.AlphaStepDecay(1.0)}
    prune(two_normalizations(), folder, **options)
    branched = kbp.load_model(folder / "branched.keras", compile=False)
    assert kbp.get_alpha(branched) == 0
    before = statistics_of(branched)
    drawn = dataclasses.replace(recipe, calibration_samples=RECIPE.calibration_samples)
    images = Trainer(compile_, TRAIN, None, drawn).calibration()[0]
    kbp.reestimate_batch_norm(branched, images, recipe.batch_size)
    after = statistics_of(branched)
    return max(np.abs(a - b).max() for a, b in zip(before, after, strict=True))


def statistics_of(model):
    found = [x for x in model.layers if isinstance(x, layers.BatchNormalization)]
    assert len(found) == 4
    return [np.array(x.moving_mean) for x in found]


@pytest.mark.slow
def test_at_alpha_0_statistics_are_those_of_the_pruned_network(tmp_path):
    recipe = dataclasses.replace(RECIPE, blend_epochs=1, finetune_epochs=0)
    assert lag(tmp_path / "default", recipe) < 1e-6
    without = dataclasses.replace(recipe, reestimate_batch_norm=False)
    assert lag(tmp_path / "without", without) > 0.01
    no_samples = dataclasses.replace(recipe, calibration_samples=0)
    assert lag(tmp_path / "no_samples", no_samples) > 0.01


def test_statistics_are_reestimated_while_alpha_falls(original, tmp_path, monkeypatch):
    sizes = []
    count = functools.partial(lambda sizes, _, inputs, size: sizes.append(len(inputs)), sizes)
    monkeypatch.setattr(batch_statistics, "_estimate_anew", count)
    monkeypatch.setattr(sys.modules[kbp.prune.__module__], "reestimate_batch_norm", count)
    recipe = dataclasses.replace(RECIPE, finetune_epochs=0)
    prune(original, tmp_path / "run", recipe=recipe, alpha=kbp.AlphaStepDecay(0.5))
    # After both epochs, and when α has become 0.
    assert sizes == 3 * [RECIPE.calibration_samples]


def test_reestimating_needs_samples(original, tmp_path):
    lost = dataclasses.replace(RECIPE, reestimate_batch_norm=True, calibration_samples=0)
    with pytest.raises(ValueError, match="`reestimate_batch_norm` needs samples"):
        prune(original, tmp_path / "run", recipe=lost)
    assert not (tmp_path / "run").exists()
