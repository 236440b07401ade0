"""Unions and pins against a union-find written the slow way."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kprune.graph.slots import SlotTable


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12))
def test_components_equal_a_naive_union_find(pairs):
    table = SlotTable()
    table.new(9)
    parent = list(range(10))

    def find(n):
        while parent[n] != n:
            n = parent[n]
        return n

    for a, b in pairs:
        table.union(np.array([a]), np.array([b]), "")
        parent[find(a)] = find(b)
    classes = table.components()
    same = [[find(a) == find(b) for b in range(10)] for a in range(10)]
    np.testing.assert_array_equal(classes[:, None] == classes[None, :], same)
    first = [np.flatnonzero(classes == c)[0] for c in range(classes.max() + 1)]
    assert first == sorted(first), "classes are numbered by their first slot"


def test_meeting_slot_zero_pins_with_the_reason():
    table = SlotTable()
    a, b = table.new(3), table.new(3)
    table.union(a, b, "never told")
    table.union(b, np.array([0, 0, b[2]]), "meets the input")
    pinned = table.pinned(table.components())
    assert table.reasons == ["meets the input"]
    assert pinned[table.components()[a]].tolist() == [0, 0, -1]


def test_first_reason_is_told_unless_another_is_foremost():
    table = SlotTable()
    a = table.new(2)
    table.pin(a, "first")
    table.pin(a, "second")
    table.pin(a[:1], "output", foremost=True)
    classes = table.components()
    reasons = [table.reasons[r] for r in table.pinned(classes)[classes[a]]]
    assert reasons == ["output", "first"]
