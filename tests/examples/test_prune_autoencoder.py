"""Runs the example as a user does, and kills it in the middle."""

from __future__ import annotations

import re

import numpy as np
import pytest
from augmentation import EpochNumber
from autoencoder_data import AutoencoderData
from helpers.example_runs import Example, read
from helpers.models import error_between
from matplotlib import image
from pruned_autoencoder import largest_difference

import keras_branch_prune as kbp

SIZES = {"crop_size": 32, "crops": 8, "evaluation_crops": 4, "batch_size": 4}
EPOCHS = {"train_epochs": 1, "blend_epochs": 2, "finetune_epochs": 1, "calibration": 4}
# Pruning finds more to do in three blocks, but tracing takes longest here.
TINY = {**SIZES, **EPOCHS, "widths": "2,4", "keep": 0.5}


EXAMPLE = Example("prune_autoencoder", [f"--{name}={value}" for name, value in TINY.items()])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, EXAMPLE.run(folder, "--prune=encoder")


@pytest.fixture(scope="module")
def data():
    options = {name: value for name, value in SIZES.items() if name != "crop_size"}
    return AutoencoderData.load("photos", ".", crop_size=32, seed=0, **options)


def assert_table_has(table, metrics):
    """Asserts that the cells of the tables are the numbers in the metrics."""
    lines = [re.split(r"  +", line) for line in table.splitlines()]
    for approach in metrics["approaches"].values():
        for row in [metrics["original"], *(approach["steps"][-1][s] for s in states(approach))]:
            loss, size = f"{row['val_loss']:.4f}", f"{row['parameters']:,}"
            test = f"{row['test_loss']:.4f}" if "test_loss" in row else "–"
            assert any({loss, size, test} <= set(cells) for cells in lines)
        ratio = approach["steps"][-1]["compact"]["test_loss"] / metrics["original"]["test_loss"]
        assert f"test {ratio:.4f}" in table


def states(approach):
    return [name for name in approach["steps"][-1] if name not in ("scope", "difference")]


def bottleneck(model, block=2):
    return model.get_layer(f"encoder__block{block}_pool").output.shape[-1]


@pytest.mark.slow
def test_it_leaves_models_tables_and_pictures(finished):
    folder, printed = finished
    original = {"original.keras", "original.history.json", "original.json"}
    reports = {"settings.json", "metrics.json", "table.txt"}
    approach = {"encoder", "encoder.json", "encoder.png", "encoder.training.png"}
    assert {path.name for path in folder.iterdir()} == original | reports | approach
    pruned = {path.name for path in (folder / "encoder").iterdir()}
    assert {"plan.json", "branched.keras", "compact.keras", "compact_saved_model"} <= pruned
    assert (folder / "table.txt").read_text() in printed
    height, width, _ = image.imread(folder / "encoder.png").shape
    assert width > height > 500


@pytest.mark.slow
def test_table_and_metrics_agree(finished):
    folder, _ = finished
    metrics = read(folder / "metrics.json")
    assert list(metrics["approaches"]) == ["encoder"]
    assert states(metrics["approaches"]["encoder"]) == ["alpha_0", "merged", "compact"]
    assert_table_has((folder / "table.txt").read_text(encoding="utf-8"), metrics)


@pytest.mark.slow
def test_metrics_describe_the_models_that_it_saved(finished, data):
    folder, _ = finished
    metrics = read(folder / "metrics.json")
    (step,) = metrics["approaches"]["encoder"]["steps"]
    rows = {"original": metrics["original"], "encoder/compact": step["compact"]}
    for path, row in rows.items():
        model = kbp.load_model(folder / f"{path}.keras", compile=False)
        assert row["parameters"] == model.count_params()
        crops = data.evaluation["test"]
        losses = kbp.zoo.reconstruction_loss(crops, model.predict(crops, verbose=0))
        assert row["test_loss"] == pytest.approx(float(np.mean(losses)), rel=1e-4)
    assert step["compact"]["macs"] < metrics["original"]["macs"]


@pytest.mark.slow
def test_the_test_crops_are_for_the_original_and_the_compact_model_alone(finished):
    metrics = read(finished[0] / "metrics.json")
    (step,) = metrics["approaches"]["encoder"]["steps"]
    assert "test_loss" in metrics["original"]
    assert [name for name in states(metrics["approaches"]["encoder"]) if "test_loss" in step[name]]
    assert not any("test_loss" in step[name] for name in ("alpha_0", "merged"))
    assert not any("test_loss" in row for row in read(finished[0] / "encoder/result.json").values())


@pytest.mark.slow
def test_multiplication_changes_nothing(finished, data):
    folder, _ = finished
    branched = kbp.load_model(folder / "encoder/branched.keras", compile=False)
    assert kbp.get_alpha(branched) == 0
    assert error_between(branched, kbp.merge(branched)) <= 1e-5
    (step,) = read(folder / "encoder.json")["steps"]
    assert 0 <= step["difference"] <= 1e-5
    assert step["alpha_0"]["val_loss"] == pytest.approx(step["merged"]["val_loss"], rel=1e-4)


@pytest.mark.slow
def test_a_wrong_multiplication_is_an_error(finished, data):
    branched = kbp.load_model(finished[0] / "encoder/branched.keras", compile=False)
    wrong = kbp.merge(branched)
    wrong.set_weights([weight + 0.01 for weight in wrong.get_weights()])
    with pytest.raises(RuntimeError, match=r"to 1e-05\. Their pixels differ by up to 0\."):
        largest_difference(branched, wrong, data)


@pytest.mark.slow
def test_pruning_the_encoder_narrows_the_bottleneck(finished):
    folder, _ = finished
    assert {group.name.split("__")[0] for group in plan(folder / "encoder").groups} == {"encoder"}
    compact = kbp.load_model(folder / "encoder/compact.keras", compile=False)
    assert bottleneck(compact) == 2
    assert compact.get_layer("decoder__block2_up").filters == 4


def plan(folder):
    return kbp.PruningPlan.load(folder / "plan.json")


@pytest.mark.slow
def test_alpha_falls_in_the_epochs_of_the_flags(finished):
    rows = read(finished[0] / "encoder/branched.history.json")
    # 2 batches per epoch, of which the very last one is trained at α = 0.
    assert [row["alpha"] for row in rows] == pytest.approx([1 / 3, 0.0])
    approach = read(finished[0] / "encoder.json")
    assert (approach["blend_epochs"], approach["finetune_epochs"]) == (2, 1)


def test_no_photo_is_in_two_splits(data):
    splits = [data.photos.train, data.photos.validation, data.photos.test]
    names = [name for split in splits for name in split]
    assert len(set(names)) == len(names) == 10
    seen = {crop.tobytes() for crop in data.evaluation["train"]}
    assert not seen & {crop.tobytes() for crop in data.evaluation["test"]}


def test_the_crops_to_evaluate_on_do_not_depend_on_the_seed(data):
    options = {name: value for name, value in SIZES.items() if name != "crop_size"}
    other = AutoencoderData.load("photos", ".", crop_size=32, seed=1, **options)
    for split, crops in data.evaluation.items():
        assert np.array_equal(crops, other.evaluation[split])
    batches = [next(iter(d.batches(EpochNumber())))[0] for d in (data, other)]
    assert not np.array_equal(*batches)


BAD_FLAGS = {
    "--crop_size=30": "--crop_size must be a multiple of 2 to the number of --widths.",
    "--crop_size=8": "--crop_size=8: 8 is not integer >= 11",
    "--widths=8,x": "--widths=['8', 'x']: must be positive integers",
    "--widths=": "--widths=[]: must be positive integers",
    "--keep=1": "--keep=1.0: must be between 0 and 1",
    "--prune=middle": "one of <encoder|decoder|both|encoder_then_decoder|all>",
    "--prune=all --blend_epochs=1": "--blend_epochs must be at least 2, one for each half",
    "--dataset=/no/such/folder": "There is no folder of images '/no/such/folder'",
}


@pytest.mark.slow
def test_bad_flags_are_refused_before_anything_is_made(finished, tmp_path):
    runs = [(tmp_path / "run", flags.split()) for flags in BAD_FLAGS]
    other = (finished[0], ["--keep=0.25", "--prune=decoder"])
    *errors, other = EXAMPLE.refusals(*runs, other)
    for error, message in zip(errors, BAD_FLAGS.values(), strict=True):
        assert message in error
    assert list(tmp_path.iterdir()) == []
    assert "was begun with other settings (keep: " in other


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--skips", "--widths=2,4,4")], ids=["plain", "skips"])
def test_all_approaches(tmp_path, flags):
    printed = EXAMPLE.run(tmp_path, "--prune=all", "--control", *flags)
    metrics = read(tmp_path / "metrics.json")
    assert len(read(tmp_path / "trained_on" / "original.history.json")) == 3
    for key in ("parameters", "macs"):
        assert metrics["trained_on"][key] == metrics["original"][key]
    assert metrics["trained_on"]["train_loss"] < metrics["original"]["train_loss"]
    reference = metrics["trained_on"]["test_loss"]
    approaches = metrics["approaches"]
    assert list(approaches) == ["encoder", "decoder", "both", "encoder_then_decoder"]
    assert_table_has(printed, metrics)
    assert [len(approach["steps"]) for approach in approaches.values()] == [1, 1, 1, 2]
    for name, approach in approaches.items():
        assert (approach["blend_epochs"], approach["finetune_epochs"]) == (2, 1)
        assert all(step["difference"] <= 1e-5 for step in approach["steps"])
        assert "test_loss" not in approach["steps"][0]["compact"] or len(approach["steps"]) == 1
        (row,) = re.findall(rf"\n{name} (.*)", printed.split("test loss / original")[1])
        ratio = approach["steps"][-1]["compact"]["test_loss"] / reference
        assert row.split()[1] == f"{ratio:.4f}"
    assert "2 + 1 epochs each" in printed
    compact = {name: approach["steps"][-1]["compact"] for name, approach in approaches.items()}
    assert compact["both"]["macs"] == compact["encoder_then_decoder"]["macs"]
    assert compact["both"]["macs"] < min(compact[n]["macs"] for n in ("encoder", "decoder"))
    blocks = 3 if flags else 2
    folders = {"encoder": 2, "decoder": 4, "both": 2, "encoder_then_decoder/decoder": 2}
    for name, width in folders.items():
        model = kbp.load_model(tmp_path / name / "compact.keras", compile=False)
        assert bottleneck(model, blocks) == width


@pytest.mark.slow
def test_killed_and_called_again_it_ends_as_if_left_alone(finished, tmp_path):
    expected, _ = finished
    EXAMPLE.kill_when(tmp_path, "encoder/branched.backup/epoch-000001*", "--prune=encoder")
    assert not (tmp_path / "encoder" / "branched.keras").exists()
    EXAMPLE.run(tmp_path, "--prune=encoder")
    for name in ("original", "encoder/branched", "encoder/compact"):
        files = [folder / f"{name}.keras" for folder in (expected, tmp_path)]
        weights = [kbp.load_model(file, compile=False).get_weights() for file in files]
        for a, b in zip(*weights, strict=True):
            assert np.array_equal(a, b, equal_nan=True)
    assert read(expected / "metrics.json") == read(tmp_path / "metrics.json")
