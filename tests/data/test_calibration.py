from __future__ import annotations

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_branch_prune.data.calibration import BATCH_SIZE, read_batches
from keras_branch_prune.graph.canonical import canonical

IMAGES = np.random.default_rng(0).random((70, 4, 4, 3), dtype=np.float32)
LABELS = np.arange(70)


def graph_of(inputs):
    tensors = keras.tree.flatten(inputs)
    features = [layers.Flatten()(layers.Rescaling(1.0)(tensor)) for tensor in tensors]
    joined = layers.Concatenate()(features) if len(features) > 1 else features[0]
    return canonical(keras.Model(inputs, layers.Dense(2)(joined)))


def image_graph(**options):
    return graph_of(keras.Input((4, 4, 3), name="image", **options))


def pair_graph(structure=list):
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    return graph_of({"right": right, "left": left} if structure is dict else [left, right])


class Batches(keras.utils.PyDataset):
    """The images in batches of 32, with labels."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(32 * index, 32 * index + 32)
        return IMAGES[rows], LABELS[rows]


def generated(with_labels=True):
    for index in range(3):
        images, labels = Batches()[index]
        yield (images, labels) if with_labels else images


def reusing_one_array():
    buffer = np.empty((10, 4, 4, 3), np.float32)
    for start in range(0, 70, 10):
        buffer[:] = IMAGES[start : start + 10]
        yield buffer


DATA = {
    "array": lambda: IMAGES,
    "tensor": lambda: tf.constant(IMAGES),
    "list of one": lambda: [IMAGES],
    "dict by name": lambda: {"image": IMAGES, "unused": LABELS},
    "arrays with targets": lambda: (IMAGES, LABELS),
    "arrays without targets": lambda: (IMAGES, None),
    "arrays with weights": lambda: (IMAGES, LABELS, LABELS),
    "float64": lambda: IMAGES.astype(np.float64),
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices(IMAGES).batch(32),
    "tf.data with targets": lambda: tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(32),
    "PyDataset": Batches,
    "generator": generated,
    "generator without targets": lambda: generated(with_labels=False),
    "any iterable": lambda: {0: IMAGES, 1: IMAGES[:0]}.values(),
    "one array filled again": reusing_one_array,
}


@pytest.mark.parametrize("name", DATA)
def test_every_form_of_data(name):
    batches = list(read_batches(DATA[name](), image_graph()))
    images = np.concatenate([image for (image,), _ in batches])
    assert images.dtype == np.float32
    assert np.array_equal(images, IMAGES)
    if name in ("arrays with targets", "arrays with weights", "PyDataset", "generator"):
        assert np.array_equal(np.concatenate([targets for _, targets in batches]), LABELS)
    if name.startswith("array"):
        assert [len(image) for (image,), _ in batches] == [BATCH_SIZE, BATCH_SIZE, 6]


@pytest.mark.parametrize(("model", "data"), [(list, list), (dict, dict), (list, dict)])
def test_several_inputs_are_ordered_as_the_model_takes_them(model, data):
    left, right = np.zeros((5, 3)), np.ones((5, 2))
    graph = pair_graph(model)
    given = {"right": right, "left": left} if data is dict else [left, right]
    ((arrays, targets),) = read_batches((given, np.arange(5)), graph)
    found = {unit.name: array for unit, array in zip(graph.input_units, arrays, strict=True)}
    assert np.array_equal(found["left"], left)
    assert np.array_equal(found["right"], right)
    assert np.array_equal(targets, np.arange(5))


@pytest.mark.parametrize("dtype", ["int32", "bool", "float16", "bfloat16", "float64"])
def test_inputs_get_the_dtype_of_the_model(dtype):
    inputs = keras.Input((2,), dtype=dtype)
    graph = canonical(keras.Model(inputs, keras.ops.cast(inputs, "float32") * 2.0))
    (((array,), _),) = read_batches(np.ones((3, 2), np.uint8), graph)
    assert array.dtype == np.dtype(getattr(ml_dtypes, dtype, dtype))
    assert (array == np.ones((3, 2))).all()


def test_a_fixed_batch_size_is_kept():
    batches = read_batches(IMAGES[:8], image_graph(batch_size=4))
    assert [len(image) for (image,), _ in batches] == [4, 4]


def test_arrays_that_are_given_are_never_handed_on():
    images = IMAGES[:3].copy()
    (((array,), _),) = read_batches(images, image_graph())
    array[:] = 0
    assert np.array_equal(images, IMAGES[:3])


def test_batches_are_read_one_by_one():
    def endless():
        while True:
            yield IMAGES[:2]

    ((first,), _) = next(read_batches(endless(), image_graph()))
    assert first.shape == (2, 4, 4, 3)


def with_value(value, dtype=np.float32):
    images = IMAGES[:40].astype(dtype)
    images[35, 0, 0, 0] = value
    return images


UNBATCHED = tf.data.Dataset.from_tensor_slices(IMAGES)
WRONG_VALUES = {
    "nan": (lambda: with_value(np.nan), "finite as float32. Received: NaN or infinite values for"),
    "inf": (lambda: with_value(-np.inf), "finite as float32. Received: NaN or inf"),
    "bfloat16": (lambda: with_value(np.nan, ml_dtypes.bfloat16), "finite as float32"),
    "overflow": (lambda: with_value(1e200, np.float64), "finite as float32"),
    "shape": (lambda: IMAGES[:, :3], r"the shape \(None, 4, 4, 3\) for input 'image'.*\(32, 3, 4"),
    "no channels": (lambda: IMAGES[..., 0], r"the shape .* Received: \(32, 4, 4\)"),
    "unbatched": (lambda: UNBATCHED, r"the shape .* batches of a dataset too. .*: \(4, 4, 3\)"),
    "counts": (lambda: (IMAGES, LABELS[:9]), r"as many samples in every array. Received: \[70, 9"),
    "no sample": (lambda: IMAGES[:0], "at least one sample. Received: none"),
    "empty generator": (lambda: iter(()), "at least one sample. Received: none"),
    "empty dataset": (lambda: UNBATCHED.take(0).batch(8), "at least one sample. Received: none"),
    "infinite": (lambda: UNBATCHED.batch(8).repeat(), "a dataset that ends. Received: an infinite"),
}
WRONG_TYPES = {
    "None": (lambda: None, "arrays, a dataset or a generator. Received: NoneType"),
    "number": (lambda: 3.0, "arrays, a dataset or a generator. Received: float"),
    "text": (lambda: "images", "arrays, a dataset or a generator. Received: str"),
    "nested lists": (lambda: [[1.0, 2.0]], "arrays, a dataset or a generator. Received: list"),
    "nothing": (lambda: [], "arrays, a dataset or a generator. Received: list"),
    "too many": (lambda: [IMAGES, IMAGES], r"the inputs \['image'\].* Received: 2 array"),
    "names": (lambda: {"picture": IMAGES}, r"the inputs \['image'\]. Received: \['picture'\]"),
    "texts": (lambda: np.array([["a"]]), "numbers for input 'image'. Received: str"),
    "objects": (lambda: iter([None]), "numbers for input 'image'. Received: object"),
    "long tuple": (lambda: (IMAGES,) * 4, "sample_weights.. Received: a tuple of 4"),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_data_with_wrong_values(name):
    make, message = WRONG_VALUES[name]
    with pytest.raises(ValueError, match=f"`calibration` must .*{message}"):
        list(read_batches(make(), image_graph()))


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_data_of_wrong_types(name):
    make, message = WRONG_TYPES[name]
    with pytest.raises(TypeError, match=f"`calibration` must .*{message}"):
        list(read_batches(make(), image_graph()))


def test_nan_cannot_hide_in_an_integer_input():
    inputs = keras.Input((2,), dtype="int32")
    graph = canonical(keras.Model(inputs, layers.Embedding(3, 2)(inputs)))
    with pytest.raises(ValueError, match="`calibration` must be finite as int32"):
        list(read_batches(np.full((3, 2), np.nan), graph))


def test_a_tuple_is_not_a_pair_of_inputs():
    pair = np.zeros((5, 3)), np.ones((5, 2))
    with pytest.raises(TypeError, match="a tuple is read as .inputs, targets.. Received: 1 array"):
        list(read_batches(pair, pair_graph()))
    with pytest.raises(ValueError, match=r"as many samples in every array. Received: \[5, 4\]"):
        list(read_batches(iter([[pair[0], pair[1][:4]]]), pair_graph()))
