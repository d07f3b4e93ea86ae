"""Files from strangers, read safely, and files that are written whole or not at all."""

from keras_branch_prune.files.archive import ModelFileError
from keras_branch_prune.files.atomic import atomic_write
from keras_branch_prune.files.models import load_model, save_model

__all__ = [
    "ModelFileError",
    "atomic_write",
    "load_model",
    "save_model",
]
