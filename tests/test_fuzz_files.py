"""A few hundred damaged files; see `fuzz_files.py` for any number of them."""

from __future__ import annotations

import collections

import fuzz_files
import pytest

pytestmark = pytest.mark.tensorflow

COUNT = 210


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return list(fuzz_files.fuzz(tmp_path_factory.mktemp("files"), COUNT))


def test_damaged_files_are_refused_by_name_or_read(results):
    faults = [
        (r.kind, r.number, r.outcome, r.message)
        for r in results
        if r.outcome in fuzz_files.FAULTS
    ]
    assert not faults


def test_most_damage_is_noticed(results):
    counts = collections.Counter((r.kind, r.outcome) for r in results)
    for kind in fuzz_files.KINDS:
        # Not in numbers of arrays, and in what a log says besides its time.
        least = 5 if kind in ("npy", "log") else 10
        assert counts[kind, "refused"] >= least, counts
