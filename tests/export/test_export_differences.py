"""How outputs are compared."""

from __future__ import annotations

import numpy as np
import pytest

from kprune.export.differences import compare_outputs


def test_differences_are_relative_to_the_outputs_scale():
    reference = np.array([[100.0, 1e-9], [50.0, 0.0]], "float32")
    got = reference + np.array([[0.0, 1e-3], [0.0, 0.0]], "float32")
    found = compare_outputs([reference], [got])
    assert found.max_abs == pytest.approx(1e-3, rel=1e-4)
    assert found.max_rel == pytest.approx(1e-5, rel=1e-4)


def test_each_output_has_its_own_scale():
    large, small = np.full((3, 1), 1e6), np.full((3, 1), 1e-3)
    found = compare_outputs([large, small], [large, small * 1.5])
    assert found.max_rel == pytest.approx(0.5)


def test_top1_is_the_share_of_equal_classes():
    reference = np.eye(4, dtype="float32")
    got = reference.copy()
    got[0] = got[1]
    assert compare_outputs([reference], [got]).top1 == 0.75


@pytest.mark.parametrize("shape", [(4, 1), (4, 3, 3), (4,)])
def test_top1_needs_class_scores(shape):
    assert compare_outputs([np.ones(shape)], [np.ones(shape)]).top1 is None


def test_zero_reference():
    zeros = np.zeros((2, 3))
    assert compare_outputs([zeros], [zeros]).max_rel == 0
    assert compare_outputs([zeros], [zeros + 1e-9]).max_rel == np.inf


def test_infinities_must_match():
    reference = np.array([[1.0, np.inf], [np.nan, 2.0]])
    assert compare_outputs([reference], [reference.copy()]).max_rel == 0
    got = np.array([[1.0, 5.0], [np.nan, 2.0]])
    assert compare_outputs([reference], [got]).max_abs == np.inf
    got = np.array([[np.nan, np.inf], [np.nan, 2.0]])
    assert compare_outputs([reference], [got]).max_abs == np.inf


def test_nothing_finite_is_an_error():
    with pytest.raises(ValueError, match="no finite output"):
        compare_outputs([np.full((2, 2), np.nan)], [np.zeros((2, 2))])


def test_shapes_must_match():
    with pytest.raises(ValueError, match=r"Output 0 has shape \(2, 2\)"):
        compare_outputs([np.ones((2, 3))], [np.ones((2, 2))])


def test_constant_references_are_told():
    same = np.ones((3, 2))
    assert compare_outputs([same], [same]).constant
    assert not compare_outputs([same[:1]], [same[:1]]).constant
    varied = same * np.arange(3)[:, None]
    assert not compare_outputs([same, varied], [same, varied]).constant
