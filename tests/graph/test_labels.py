"""Label arrays move as their tensors do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kprune.graph.labels import compress
from kprune.graph.labels import reshape_factor
from kprune.graph.labels import split_blocks


@st.composite
def reshapes(draw):
    """Two shapes with equal element counts, and axes that carry labels."""
    primes = draw(
        st.lists(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=5)
    )

    def grouped():
        shape, current = [], 1
        for p in primes:
            current *= p
            if draw(st.booleans()):
                shape.append(current)
                current = 1
        shape.append(current)
        return tuple(shape)

    old, new = grouped(), grouped()
    axes = draw(st.lists(st.sampled_from(range(len(old))), unique=True))
    return old, new, axes


@given(reshapes())
def test_reshape_moves_labels_like_values(case):
    old, new, axes = case
    shape = [n if a in axes else 1 for a, n in enumerate(old)]
    factor = np.arange(1, 1 + int(np.prod(shape))).reshape(shape)
    moved = reshape_factor(factor, (None, *old)[1:], new)
    full = np.broadcast_to(factor, old).reshape(new)
    np.testing.assert_array_equal(np.broadcast_to(moved, new), full)


def test_unknown_batch_stays_apart():
    factor = np.arange(1, 7).reshape(1, 1, 1, 6)
    moved = reshape_factor(factor, (None, 2, 2, 6), (None, 24))
    assert moved.shape == (1, 24)
    np.testing.assert_array_equal(moved[0, :6], moved[0, 6:12])


def test_trailing_channels_survive_unknown_sizes():
    factor = np.arange(1, 7).reshape(1, 1, 1, 6)
    moved = reshape_factor(factor, (None, None, None, 6), (None, None, 6))
    assert moved.shape == (1, 1, 6)


def test_channels_mixed_with_an_unknown_size_are_undecidable():
    factor = np.arange(1, 7).reshape(1, 1, 6)
    assert reshape_factor(factor, (None, None, 6), (None, None)) is None


def test_impossible_pairing_is_refused():
    assert split_blocks((2, 3), (4,)) is None


@pytest.mark.parametrize("axis", [0, 1])
def test_compress_drops_constant_axes(axis):
    values = np.expand_dims(np.arange(4), axis)
    wide = np.repeat(values, 3, axis=axis)
    np.testing.assert_array_equal(compress(wide), values)
