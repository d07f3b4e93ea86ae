"""A small model in a file."""

import pytest
from helpers.model_files import tiny_model

from keras_branch_prune.files.models import save_model


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.keras"
    save_model(tiny_model(), path)
    return path
