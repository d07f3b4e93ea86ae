from __future__ import annotations

import keras
import pytest
from helpers.invariants import check_invariants
from helpers.models import randomized
from keras import layers, ops

import keras_branch_prune as kbp
from keras_branch_prune.layers.blend import AlphaBlend


def groups_of(model):
    return {group.name: group for group in kbp.explain(model).groups}


def model_with(part):
    """Parts of a tensor between two layers; if there are several, they are concatenated."""
    keras.utils.clear_session()
    inputs = keras.Input((6, 6, 3), batch_size=4)
    x = part(layers.BatchNormalization()(layers.Conv2D(8, 1, name="before")(inputs)))
    x = layers.Concatenate()(x) if isinstance(x, (list, tuple)) else x
    x = layers.Flatten()(layers.Dense(4, name="after")(x))
    return randomized(keras.Model(inputs, layers.Dense(2, name="head")(x)))


@pytest.mark.parametrize(
    "part",
    [
        lambda x: x[:, 0],
        lambda x: x[:, -1:],
        lambda x: x[:, ::2, ::-2, :],
        lambda x: x[:, 1, ..., 2, :],
        lambda x: x[:, None, 1:, :, None],
        lambda x: x[..., None, :],
        lambda x: x[1][2:, 0][..., -20:],
        lambda x: ops.transpose(ops.transpose(x, (0, 3, 1, 2))[:, :, 1, None], (0, 2, 3, 1)),
        lambda x: ops.slice(x, (0, 1, 0, 0), (4, 3, 6, 8)),
        lambda x: ops.split(x, 2, axis=2),
        lambda x: ops.split(x, 1, axis=-1),
        lambda x: ops.split(x, (2, 4), axis=1)[1:],
    ],
)
def test_channels_that_stay_whole_are_one_group(part):
    model = model_with(part)
    assert groups_of(model)["before"].parts == ()
    assert check_invariants(model).get_layer("after").kernel.shape[0] in (4, 8)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (lambda x: x[..., 2:6], ["before[0:2]", "before[2:6]", "before[6:8]"]),
        (lambda x: x[:, 0, :, -3:], ["before[0:5]", "before[5:8]"]),
        (lambda x: ops.slice(x, (0, 1, 0, 3), (4, 2, 6, 5)), ["before[0:3]", "before[3:8]"]),
        (lambda x: ops.split(x, 4, -1), [f"before[{n}:{n + 2}]" for n in (0, 2, 4, 6)]),
        (lambda x: ops.split(x, (2, 5), 3)[::-1], ["before[0:2]", "before[2:5]", "before[5:8]"]),
        (lambda x: x[..., 2:][..., :3], ["before[0:2]", "before[2:5]", "before[5:8]"]),
    ],
)
def test_runs_of_channels_are_groups(part, expected):
    model = model_with(part)
    groups = groups_of(model)
    assert [name for name in groups if name.startswith("before")] == expected
    assert all(groups[name].prunable for name in expected)
    check_invariants(model)


def test_a_gated_unit_keeps_the_same_channels_of_both_halves():
    def gated(x):
        value, gate = ops.split(x, 2, axis=-1)
        return value * ops.silu(gate)

    model = model_with(gated)
    group = groups_of(model)["before[0:4]"]
    assert group.parts == ("before[0:4]", "before[4:8]")
    assert (group.producers, group.channels, group.prunable) == (("before",), 4, True)
    compact = check_invariants(model, width=0.25)
    assert compact.get_layer("before").filters == 2
    (split,) = (op for op in compact.operations if op.name == "split")
    assert [tensor.shape[-1] for tensor in split.output] == [1, 1]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (lambda x: x[..., ::2], "takes other channels than a run of neighbours"),
        (lambda x: x[..., ::-1], "takes other channels than a run of neighbours"),
        (lambda x: x[..., 3], "takes other channels than a run of neighbours"),
        (
            lambda x: layers.DepthwiseConv2D(1, depth_multiplier=2)(x)[..., :7],
            "parts channels that cannot be cut there",
        ),
        (lambda x: layers.Flatten()(x)[..., :7], "parts channels that cannot be cut there"),
    ],
)
def test_other_channels_are_a_barrier(part, reason):
    model = model_with(part)
    assert groups_of(model)["before"].reason == f"'get_item' (GetItem) {reason}"
    check_invariants(model)


def test_positions_given_as_a_tensor_are_a_barrier():
    keras.utils.clear_session()
    inputs, start = keras.Input((6, 3), batch_size=4), keras.Input((), 3, dtype="int32")
    x = ops.slice(layers.Dense(8, name="before")(inputs), start, (4, 2, 4))
    model = keras.Model([inputs, start], layers.Dense(2)(x))
    assert groups_of(model)["before"].reason == "'slice' (Slice) is given positions as a tensor"


def test_a_part_of_which_no_channel_goes_is_blended_where_it_is_sliced():
    model = model_with(lambda x: [layers.Softmax()(layers.ReLU()(x[..., :3])), x[..., 3:]])
    groups = groups_of(model)
    assert not groups["before[0:3]"].prunable
    branched = kbp.branch(model, kbp.plan(model, width=0.5))
    blends = [layer.name for layer in branched.layers if isinstance(layer, AlphaBlend)]
    assert blends == ["get_item__blend", "after__blend", "head__blend"]
    # The maps and the narrow copies are moved, so that a wrong branch would show.
    check_invariants(model)


def test_a_slice_that_is_a_model_output_keeps_its_name_and_all_it_is_taken_from():
    x = inputs = keras.Input((5,))
    x = layers.Dense(8, name="before")(layers.Dense(6, name="free")(x))
    model = randomized(keras.Model(inputs, [x[:, :3], layers.Dense(2, name="head")(x)]))
    groups = groups_of(model)
    assert groups["before[0:3]"].reason == "is a model output"
    assert groups["before[3:8]"].reason == "is sliced into a model output"
    branched = kbp.branch(model, kbp.plan(model, width=0.5))
    assert branched.output_names == model.output_names
    check_invariants(model)


def test_a_part_of_a_grouped_convolution_is_not_cut():
    model = model_with(lambda x: layers.Conv2D(8, 1, groups=2, name="pairs")(x)[..., :3])
    assert "is split into 2 groups, but joined" in groups_of(model)["pairs[0:3]"].reason


def test_a_branched_model_with_slices_survives_saving(tmp_path):
    model = model_with(lambda x: [x[:, 1:, ..., :3], *ops.split(x[:, 1:, :, 3:7], 2, -1)])
    branched = kbp.branch(model, kbp.plan(model, width=0.5))
    kbp.set_alpha(branched, 0)
    kbp.save_model(branched, tmp_path / "branched.keras")
    reloaded = keras.models.load_model(tmp_path / "branched.keras")
    one, other = kbp.merge(branched), kbp.merge(reloaded)
    assert [w.shape for w in one.weights] == [w.shape for w in other.weights]
