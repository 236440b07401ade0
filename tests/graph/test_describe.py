"""The page that a person reads about a channel graph."""

import re

import keras
import pytest
import zoo
from keras import layers

import kprune
from kprune.graph.describe import describe
from kprune.graph.patterns import merged
from kprune.graph.patterns import pattern


def page(model, **options):
    return describe(kprune.trace(model), **options).splitlines()


def row(lines, name):
    """The cells of the line about a group."""
    found = [re.split(r" {2,}", line.strip()) for line in lines]
    return next(cells for cells in found if name in cells)


def twins(blocks):
    """Blocks that differ in their number only."""
    x = inputs = keras.Input((6,))
    for n in range(blocks):
        x = layers.Dense(8, activation="relu", name=f"block{n}_wide")(x)
        x = layers.LayerNormalization(name=f"block{n}_norm")(x)
        x = layers.Dense(4, activation="relu", name=f"block{n}_narrow")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


# -- the page --------------------------------------------------------------


def test_coverage_comes_first_and_pins_come_last():
    model = zoo.projection_resnet()
    lines = str(kprune.trace(model)).splitlines()
    assert lines[0] == (
        f"Channel graph of '{model.name}': 32 of 37 channels prunable (86.5%)"
    )
    start = lines.index("Prunable: 4 groups of coupled channels")
    end = lines.index("Pinned: 1 group, 5 channels")
    assert lines[end + 1] == "  5  feeds the model output 'head'"
    names = [line.split()[1] for line in lines[start + 2 : end - 1]]
    assert names == ["stem", "a0", "a1", "b1"]


def test_a_row_tells_size_writers_scales_and_readers():
    lines = page(zoo.projection_resnet())
    assert row(lines, "channels") == [
        "channels",
        "group, its writers",
        "scaled by",
        "read by",
    ]
    assert row(lines, "a0") == ["6", "a0", "a0_bn", "b0"]
    # `b0` is added to `stem`: two layers write these channels.
    assert row(lines, "stem +1") == [
        "8",
        "stem +1",
        "stem_bn, batch_normalization",
        "a0, a1, project1",
    ]


def test_columns_are_aligned():
    lines = page(zoo.option_a_resnet())
    start = next(n for n, line in enumerate(lines) if "read by" in line)
    at = lines[start].index("read by")
    for line in lines[start + 1 : start + 7]:
        assert line[at - 2 : at] == "  " and line[at] != " "


def test_nothing_scaled_means_no_such_column():
    lines = page(zoo.sequential())
    assert row(lines, "conv1") == ["6", "conv1", "conv2"]
    assert not any("scaled by" in line for line in lines)


@pytest.mark.parametrize("length", [10, 28, 42])
def test_long_lists_and_names_stay_within_the_width(length):
    x = inputs = keras.Input((6,))
    stem = f"stem_{'x' * length}"
    x = layers.BatchNormalization(name="scale_" + stem)(
        layers.Dense(8, name=stem)(x)
    )
    y = [layers.Dense(3, name=f"reader{n}_{'y' * length}")(x) for n in range(9)]
    lines = page(keras.Model(inputs, layers.Add()(y)))
    assert all(len(line) <= 100 for line in lines)
    cells = row(lines, stem)
    assert cells[0] == "8"
    # Nine readers: some are named, or all are counted.
    shown = cells[3]
    more = re.search(r" \+(\d)$", shown)
    assert shown == "9 layers" or shown.count("y_") + 1 + int(more[1]) >= 2
    if more:
        assert len(shown.split(", ")) + int(more[1]) == 9


def test_pins_of_one_reason_share_a_line():
    x = inputs = keras.Input((6,))
    x = [layers.Dense(5, name=f"mid{n}")(x) for n in (1, 2, 3)]
    x = [
        layers.Lambda(lambda t: t, name=f"odd{n}")(x[n - 1]) for n in (1, 2, 3)
    ]
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Add()(x)))
    lines = page(model)
    assert "Pinned: 4 groups, 17 channels" in lines
    why = "Lambda 'odd{1,2,3}' may do anything to channels: mid1, mid2, mid3"
    assert f"  15  {why}" in lines
    assert "   2  feeds the model output 'head'" in lines


def test_pinned_channels_that_no_layer_computes_are_told_apart():
    inputs = keras.Input((4, 4, 3))
    x = keras.ops.pad(inputs, [[0, 0], [0, 0], [0, 0], [0, 3]])
    read = layers.Conv2D(4, 1, name="read")(x)
    model = keras.Model(inputs, [read, layers.Lambda(lambda t: 2 * t)(x)])
    lines = page(model)
    assert "Pinned: 1 group, 4 channels" in lines
    assert any(
        line.startswith("Besides: 3 channels of constants or padding")
        for line in lines
    )


def test_a_model_with_nothing_to_prune_says_so():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="only")])
    lines = page(model)
    assert "0 of 3 channels prunable" in lines[0]
    assert not any(line.startswith("Prunable") for line in lines)
    assert "Pinned: 1 group, 3 channels" in lines


# -- folding ---------------------------------------------------------------


def test_many_groups_are_folded_to_kinds():
    lines = page(twins(30))
    assert (
        "Prunable: 60 groups of coupled channels, in 2 kinds (number "
        "of groups x channels)"
    ) in lines
    assert row(lines, "30 x 8") == [
        "30 x 8",
        "block{0..29}_wide",
        "block{0..29}_norm",
        "block{0..29}_narrow",
    ]
    # The last block is read by the head, so the readers are only counted.
    assert row(lines, "30 x 4")[1:] == ["block{0..29}_narrow", "1 layer each"]
    assert len(lines) < 15


def test_few_groups_are_listed_one_by_one():
    lines = page(twins(3))
    assert row(lines, "block1_norm") == [
        "8",
        "block1_wide",
        "block1_norm",
        "block1_narrow",
    ]
    assert row(page(twins(3), fold=True), "3 x 8")[1] == "block{0,1,2}_wide"
    assert len(page(twins(30), fold=False)) > 60


def test_folding_keeps_what_differs_apart():
    x = inputs = keras.Input((6,))
    x = layers.Dense(8, name="dense1")(x)
    x = layers.Dense(9, name="dense2")(x)
    x = layers.LayerNormalization()(layers.Dense(8, name="dense3")(x))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    lines = page(model, fold=True)
    for name in ("dense1", "dense2", "dense3"):
        assert row(lines, name)


@pytest.mark.parametrize(
    "names, text",
    [
        (["conv"], "conv"),
        (["a1_conv", "a2_conv"], "a{1,2}_conv"),
        ([f"a{n}" for n in range(2, 9)], "a{2..8}"),
        (["a1", "a2", "a4", "a8"], "a{1,…,8}"),
        (["block1a_x", "block1b_x"], "block{1a,1b}_x"),
        (["b1_1", "b1_2", "b2_1", "b2_2"], "b{1,2}_{1,2}"),
        # `b1_2` is none of them, so no braces that would contain it.
        (["b1_1", "b2_2", "b3_3"], "b*_*"),
    ],
)
def test_merged_names(names, text):
    assert len({pattern(name) for name in names}) == 1
    assert merged(names) == text


# -- one group -------------------------------------------------------------


def test_printing_a_group_lists_every_weight():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(3, 3, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.Flatten(),
            layers.Dense(2, name="head"),
        ]
    )
    graph = kprune.trace(model)
    assert str(graph["conv"]).splitlines() == [
        "conv: 3 channels, prunable",
        "  written by   conv: kernel axis 3, bias",
        "  scaled by    bn: gamma, beta",
        "  measured by  bn: moving_mean, moving_variance",
        "  read by      head: kernel axis 0 (4 places per channel)",
    ]
    assert "  pinned: feeds the model output 'head'" in str(graph["head"])


def test_variables_of_layers_within_a_layer_are_told_apart():
    x = inputs = keras.Input((5, 6))
    x = layers.Bidirectional(layers.LSTM(4, name="cells"), name="both")(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    text = str(kprune.trace(model)["both"])
    words = " ".join(text.split())
    for cells in ("forward_cells", "backward_cells"):
        assert f"{cells}/lstm_cell/recurrent_kernel axis 1 (4 places" in words
    assert all(len(line) <= 100 for line in text.splitlines())


def test_repr_is_short():
    model = zoo.sequential()
    graph = kprune.trace(model)
    assert (
        repr(graph)
        == f"<ChannelGraph of '{model.name}': 3 of 4 groups prunable>"
    )
    assert repr(graph["conv1"]) == "<Group 'conv1': 6 channels, prunable>"
