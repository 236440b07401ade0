"""The tensor arena, held against formulas and plans made by hand."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kprune
from kprune.export.micro.arena import Buffer
from kprune.export.micro.arena import estimate_arena
from kprune.export.micro.arena import greedy_offsets
from kprune.tflite import Flatbuffer
from kprune.tflite.flatbuffer import pack
from kprune.tflite.flatbuffer import schema

buffers = st.lists(
    st.builds(
        lambda size, first, length: Buffer(16 * size, first, first + length),
        st.integers(1, 20),
        st.integers(0, 12),
        st.integers(0, 5),
    ),
    max_size=14,
)


def height(plan, offsets):
    return max((o + b.size for o, b in zip(offsets, plan, strict=True)))


@given(buffers)
def test_buffers_alive_together_never_overlap(plan):
    offsets = greedy_offsets(plan)
    for i, one in enumerate(plan):
        for j, other in enumerate(plan[:i]):
            together = not (one.last < other.first or other.last < one.first)
            if together:
                assert (
                    offsets[i] >= offsets[j] + other.size
                    or offsets[j] >= offsets[i] + one.size
                )


@given(buffers.filter(len))
def test_a_plan_lies_between_the_peak_and_the_sum(plan):
    busiest = max(
        sum(b.size for b in plan if b.first <= step <= b.last)
        for step in range(20)
    )
    assert busiest <= height(plan, greedy_offsets(plan))
    assert height(plan, greedy_offsets(plan)) <= sum(b.size for b in plan)


def test_a_plan_made_by_hand():
    # 96 first, at 0. 64 meets it, so it lies above. 48 and 32 meet 64 alone
    # and each other: 48 takes the gap below 64, 32 what is left of it.
    plan = [Buffer(32, 3, 4), Buffer(64, 1, 4), Buffer(96, 0, 1)]
    plan.append(Buffer(48, 2, 3))
    assert greedy_offsets(plan) == [48, 96, 0, 0]


def test_equal_sizes_are_placed_from_the_last_on():
    assert greedy_offsets([Buffer(16, 0, 1), Buffer(16, 1, 2)]) == [16, 0]


def size(*shape, width):
    return -(-int(np.prod(shape)) * width // 16) * 16


@pytest.mark.parametrize(("quantize", "width"), [(None, 4), ("int8", 1)])
def test_a_residual_network_by_hand(tmp_path, quantize, width):
    """Stem, then two convolutions beside a shortcut, then the mean."""
    x = inputs = keras.Input((10, 10, 3))
    stem = x = keras.layers.Conv2D(5, 3, padding="same")(x)
    x = keras.layers.Conv2D(7, 3, padding="same", activation="relu")(x)
    x = keras.layers.Conv2D(5, 3, padding="same")(x)
    x = keras.layers.Add()([x, stem])
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    data = np.random.default_rng(0).standard_normal((20, 10, 10, 3))
    options = {} if quantize is None else {"io_dtype": "int8"}
    arena = kprune.export(
        model,
        tmp_path / "m.h",
        quantize=quantize,
        calibration=data,
        **options,
    ).arena
    # The widest step: the shortcut waits while 7 channels become 5.
    middle = size(10, 10, 7, width=width)
    narrow = size(10, 10, 5, width=width)
    assert arena.peak == 2 * narrow + middle
    assert arena.peak <= arena.planned
    everything = size(10, 10, 3, width=width) + 4 * narrow + middle
    assert arena.planned < everything
    # What the interpreter keeps is bounded by its largest records.
    assert arena.total - arena.planned >= 1024
    assert arena.total - arena.planned < 1024 + 30 * 24 + 6 * 192 + 256 + 400
    assert arena.total % 16 == 0


def test_a_chain_needs_its_two_largest_neighbours(tmp_path):
    sizes = (40, 7, 90, 33, 2)
    model = keras.Sequential([keras.Input((sizes[0],))])
    for units in sizes[1:]:
        model.add(keras.layers.Dense(units))
    arena = kprune.export(model, tmp_path / "m.h").arena
    pairs = itertools.pairwise(sizes)
    expected = max(size(a, width=4) + size(b, width=4) for a, b in pairs)
    assert arena.peak == arena.planned == expected


def test_the_batch_multiplies_activations(tmp_path):
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(20)])
    arena = kprune.export(model, tmp_path / "m.h", batch_size=4).arena
    assert arena.planned == size(4, 12, width=4) + size(4, 20, width=4)


def test_a_pruned_network_needs_less(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            keras.layers.Conv2D(16, 3),
            keras.layers.Conv2D(16, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    masked = kprune.prune(model, reduce={"params": 0.6})
    before = kprune.export(model, tmp_path / "a.h").arena
    after = kprune.export(masked, tmp_path / "b.h").arena
    assert after.planned < 0.7 * before.planned and after.total < before.total


def test_loops_are_followed_into_their_subgraphs(tmp_path):
    model = keras.Sequential([keras.Input((6, 3)), keras.layers.GRU(4)])
    path = tmp_path / "m.tflite"
    report = kprune.export(model, path)
    assert "WHILE" in report.operators
    arena = estimate_arena(path.read_bytes())
    # Input, state and output at least, in float32.
    assert arena.planned > size(6, 3, width=4) + 2 * size(4, width=4)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A file that turns 12 numbers into 20."""
    path = tmp_path_factory.mktemp("dense") / "m.tflite"
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(20)])
    kprune.export(model, path, samples=1)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("dtype", "width"),
    [("COMPLEX128", 16), ("COMPLEX64", 8), ("BFLOAT16", 2), ("BOOL", 1), ("INT4", 1)],
)  # fmt: skip
def test_the_width_of_a_number_format(dense, dtype, width):
    file = Flatbuffer(dense)
    for tensor in file.graphs[0].tensors:
        tensor.type = getattr(schema().TensorType, dtype)
    arena = estimate_arena(pack(file.model))
    assert arena.planned == size(1, 12, width=width) + size(1, 20, width=width)
