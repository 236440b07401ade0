"""Masked equals compact on random graphs, and on those that once failed.

`python tests/fuzzing.py --examples 20000` tries any number.
"""

import fuzzing
import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(fuzzing.PROGRAMS)
def test_random_graphs(program):
    fuzzing.check(program)


@pytest.mark.slow
@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
@given(fuzzing.PROGRAMS)
def test_many_random_graphs(program):
    fuzzing.check(program)


# Shrunk programs that once failed, and how.
FAILED = {
    "labels beside the constant 0 never settled": [
        [1, 1, 0, 0], [58, 0, 0, 0], [0, 0, 0, 1], [0, 2, 0, 0], [0, 0, 0, 0],
        [3, 3, 0, 0], [37, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0],
    ],
}  # fmt: skip


@pytest.mark.parametrize("how", FAILED)
def test_programs_that_once_failed(how):
    assert fuzzing.check(FAILED[how])


def test_the_fuzzer_notices_a_leak(monkeypatch):
    """A rebuild that forgets the factor or keeps a wrong channel is caught."""
    from kprune.graph.kept import Kept

    right = Kept.axis

    def wrong(self, variable, axis):
        index = right(self, variable, axis)
        if index is None or axis != 0 or index[0] == 0:
            return index
        shifted = index.copy()
        shifted[0] -= 1
        return shifted

    monkeypatch.setattr(Kept, "axis", wrong)
    dense = [[1, 0, 0, 3], [40, 0, 0, 4], [40, 0, 0, 5]]
    caught = 0
    for first in range(8):
        dense[0][0] = first
        try:
            fuzzing.check(dense, seed=first)
        except AssertionError:
            caught += 1
    assert caught
