"""Archives that lie about what they hold, or are broken."""

import copy
import struct
import zipfile

import h5py
import numpy as np
import pytest
from helpers.model_files import rewrite, rewrite_weights

from keras_branch_prune.files.archive import CONFIG, WEIGHTS, ModelFileError
from keras_branch_prune.files.models import load_model


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(model_file, share):
    data = model_file.read_bytes()
    model_file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelFileError, match=r"model\.keras': it is not a zip archive, or is trun"):
        load_model(model_file)


def test_a_flipped_bit_is_refused(model_file):
    data = bytearray(model_file.read_bytes())
    data[len(data) // 2] ^= 1
    model_file.write_bytes(data)
    with pytest.raises(ModelFileError, match="corrupt"):
        load_model(model_file)


@pytest.mark.parametrize("member", [CONFIG, WEIGHTS])
def test_a_missing_member_is_named(model_file, member):
    rewrite(model_file, member, lambda data: None)
    with pytest.raises(ModelFileError, match=f"has no member '{member}'"):
        load_model(model_file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b"[]", "does not describe a Keras object"),
        (b'{"class_name": "Functional", "config": {}}', "Cannot load the model file"),
    ],
    ids=["cut", "binary", "deep", "list", "empty"],
)
def test_a_broken_architecture_is_refused(model_file, text, message):
    rewrite(model_file, CONFIG, lambda data: text)
    with pytest.raises(ModelFileError, match=message):
        load_model(model_file)


def replace_first_bias(file, make):
    group = file["layers/dense/vars"]
    del group["1"]
    make(group)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda group: group.create_dataset("1", (10**9,), "f4"), "bytes that are not stored"),
        (lambda group: group.create_dataset("1", (10**9,), "f4", chunks=(1000,)), "in one piece"),
        (
            lambda group: group.create_dataset("1", data=np.zeros(10**5), compression="gzip"),
            "in one piece",
        ),
        (
            lambda group: group.create_dataset("1", (7,), "f4", external=[("/etc/hosts", 0, 28)]),
            "in one piece",
        ),
        (lambda group: group.create_dataset("1", data=["a"] * 7), "not an array of numbers"),
        (
            lambda group: group.__setitem__("1", h5py.ExternalLink("/etc/hosts", "x")),
            "link to another place at 'layers/dense/vars/1'",
        ),
        (lambda group: group.__setitem__("1", h5py.SoftLink("/layers")), "link to another place"),
        (lambda group: None, "Cannot load the model file"),
    ],
    ids=["lazy", "chunked", "compressed", "external", "strings", "link", "soft-link", "missing"],
)
def test_weights_that_only_pretend_are_refused(model_file, make, message):
    rewrite_weights(model_file, lambda file: replace_first_bias(file, make))
    with pytest.raises(ModelFileError, match=message):
        load_model(model_file)


def test_weights_that_share_their_bytes_are_refused(model_file):
    offsets = []

    def add(file):
        for name, count in (("honest", 250_000), ("sharing", 1237)):
            file[name] = np.zeros(count, "f4")
            offsets.append(file[name].id.get_offset())

    def share(data):
        # The shape, the storage's size and its address, as HDF5 writes them.
        for old, new in ((1237, 250_000), (4 * 1237, 1_000_000), offsets[::-1]):
            assert struct.pack("<Q", old) in data
            data = data.replace(struct.pack("<Q", old), struct.pack("<Q", new))
        return data

    rewrite_weights(model_file, add)
    rewrite(model_file, WEIGHTS, share)
    with pytest.raises(ModelFileError, match="claim more bytes than the file has"):
        load_model(model_file)


def test_broken_weights_are_refused(model_file):
    rewrite(model_file, WEIGHTS, lambda data: data[: len(data) // 2])
    with pytest.raises(ModelFileError, match=r"its model\.weights\.h5 is truncated or corrupt"):
        load_model(model_file)


def test_an_archive_that_expands_too_much_is_refused(model_file):
    rewrite(model_file, WEIGHTS, lambda data: data + bytes(40 * 2**20), zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFileError, match="expands from"):
        load_model(model_file)


def test_members_that_share_their_bytes_are_refused(model_file):
    with zipfile.ZipFile(model_file, "a") as file:
        for number in range(3):
            shared = copy.copy(file.getinfo(WEIGHTS))
            shared.filename = f"assets/{number}"
            file.filelist.append(shared)
        file.writestr("assets/last", "x")
    with pytest.raises(ModelFileError, match="members overlap"):
        load_model(model_file)


def test_members_outside_the_archive_are_refused(model_file):
    with zipfile.ZipFile(model_file, "a") as file:
        file.writestr("assets/../../evil.txt", "x")
    with pytest.raises(ModelFileError, match="outside the archive"):
        load_model(model_file)


def test_two_members_of_one_name_are_refused(model_file):
    with zipfile.ZipFile(model_file, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr(CONFIG, "{}")
    with pytest.raises(ModelFileError, match="same name"):
        load_model(model_file)
