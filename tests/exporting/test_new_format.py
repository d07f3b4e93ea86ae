"""A new format is a file and a row in `exporting/`, a new runtime a file and a row in `runtimes/`.

The toy format is an `.npz` file with the weights of a `Dense` layer. Its runtime is added to a copy
of the folder `runtimes/`, which the worker processes then load instead.
"""

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import export_cases

import keras_branch_prune as kbp
from keras_branch_prune.exporting.base import ConverterInput, Format, export_converted
from keras_branch_prune.exporting.formats import FORMATS
from keras_branch_prune.exporting.verification import ExportError
from keras_branch_prune.runtimes import process

RUNTIME = """
import numpy as np

from .base import Input, Runtime


class Toy(Runtime):
    def __init__(self):
        self.versions = {"Toy": "1"}

    def load(self, path, options):
        with np.load(path) as stored:
            (self._input, self._output), self._kernel, self._bias = stored.values()

    def inputs(self):
        return {str(self._input): Input((None, len(self._kernel)), "float32")}

    def prepare(self, arrays):
        (rows,) = arrays.values()
        return lambda: {str(self._output): rows @ self._kernel + self._bias}
"""
ROW = '    "toy": Toy,\n}'


def export_toy(model, path, verify=True, factor=1.0):
    def convert(source: ConverterInput, target: Path) -> None:
        kernel, bias = (variable.numpy() for variable in source.variables)
        names = [*source.names.inputs, *source.names.outputs]
        np.savez(target, names, factor * kernel, bias)

    return export_converted(model, path, FORMAT, convert, verify)


FORMAT = Format(
    title="Toy",
    noun="an `.npz` file",
    runtime="toy",
    export=lambda model, path, compared: export_toy(model, path, verify=False),
    suffix=".npz",
)


@pytest.fixture(autouse=True)
def toy(tmp_path, monkeypatch):
    """Adds the two files and the two rows."""
    copy = Path(shutil.copytree(Path(process.__file__).parent, tmp_path / "runtimes"))
    (copy / "toy.py").write_text(RUNTIME)
    table = (copy / "table.py").read_text()
    assert table.endswith("\n}\n")
    (copy / "table.py").write_text(f"from .toy import Toy\n{table[:-2]}{ROW}\n")
    monkeypatch.setattr(process, "_PACKAGE", copy / "__init__.py")
    monkeypatch.setitem(FORMATS, "toy", FORMAT)


def test_it_is_verified_in_a_fresh_process(tmp_path):
    assert export_toy(export_cases.wide(), tmp_path / "m.npz").is_file()
    with pytest.raises(ExportError, match="differs from .* at output 'scores'"):
        export_toy(export_cases.wide(), tmp_path / "wrong.npz", factor=1.01)
    assert not (tmp_path / "wrong.npz").exists()


def test_what_is_no_dense_layer_is_refused(tmp_path):
    with pytest.raises(ExportError, match="could not be converted to Toy; nothing was written. V"):
        export_toy(export_cases.cnn(), tmp_path / "m.npz")
    with pytest.raises(ValueError, match=r"must end in '\.npz'"):
        export_toy(export_cases.wide(), tmp_path / "m")
    with pytest.raises(ValueError, match="`quantize` must be one of None. Received:"):
        export_converted(export_cases.wide(), tmp_path / "m.npz", FORMAT, None, False, "int8")


def test_it_is_a_backend_of_a_benchmark(tmp_path):
    inputs = keras.Input((300,), name="features")
    models = {
        "wide": export_cases.wide(),
        "narrow": keras.Model(inputs, keras.layers.Dense(500)(inputs)),
        "file": export_toy(export_cases.wide(), tmp_path / "m.npz", verify=False),
    }
    options = {"rounds": 2, "seconds": 1e-6, "devices": ["cpu"], "peak": False, "threads": 1}
    result = kbp.benchmark(models, [2], backends=["toy"], **options)
    assert result.environment["Toy"] == "1"
    wide, narrow, file = result.variants
    assert wide.file_sizes_mib == file.file_sizes_mib
    assert wide.file_sizes_mib["toy"] / narrow.file_sizes_mib["toy"] == pytest.approx(2, abs=0.01)
    assert [variant.timing(2).backend for variant in result.variants] == ["toy"] * 3
