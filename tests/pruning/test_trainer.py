"""How stages compile, and which data they take."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf
from helpers.three_classes import TRAIN, VALIDATION, untrained

import keras_branch_prune as kbp
from keras_branch_prune.pruning.trainer import Trainer, compile_like


def test_a_schedule_of_the_learning_rate_begins_anew(original):
    model = untrained(original)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.3, 10, 0.1)
    model.compile(keras.optimizers.SGD(schedule), "mse")
    trainer = Trainer(compile_like(model), TRAIN, None, kbp.Recipe())
    assert trainer.early_rate == pytest.approx(0.3)
    assert trainer.blend_rate == pytest.approx(0.06)


class Endless(keras.utils.PyDataset):
    """Has no `__len__`, as Keras has it for datasets without end."""

    num_batches = None

    def __getitem__(self, index):
        return TRAIN


@pytest.mark.parametrize("name", ["train", "validation"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (TRAIN[0], TypeError, "Received: ndarray"),
        ((TRAIN[0],), TypeError, "Received: tuple"),
        ((batch for batch in [TRAIN]), TypeError, "Received: generator"),
        (tf.data.Dataset.from_tensors(TRAIN).repeat(), ValueError, "must be a dataset that ends"),
        (Endless(), ValueError, "must be a dataset that ends"),
    ],
)
def test_data_must_be_readable_again(original, tmp_path, name, value, error, message):
    given = {"train": TRAIN, "validation": VALIDATION, name: value}
    with pytest.raises(error, match=f"`{name}` .*{message}"):
        kbp.prune(original, **given, output_dir=tmp_path / "run", width=0.5)
    assert not (tmp_path / "run").exists()
