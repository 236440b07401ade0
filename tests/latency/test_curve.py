"""Staircases from a few measured widths."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kprune.latency import curve


def steps_of(step, alone=0.0):
    """A staircase; `alone` is how much dearer a step is that is not filled."""

    def time(width):
        filled = width % step == 0
        return math.ceil(width / step) * (1 if filled else 1 + alone)

    return time


@pytest.mark.parametrize("step", [4, 8, 16, 32, 64])
def test_step_is_found(step):
    assert curve.find_step(steps_of(step), 256) == step


@pytest.mark.parametrize("step", [8, 16, 32])
def test_step_is_found_where_part_of_a_step_is_dearer(step):
    assert curve.find_step(steps_of(step, alone=0.3), 128) == step


def test_a_line_has_no_steps():
    assert curve.find_step(lambda width: 5.0 + width, 256) == 1
    assert curve.find_step(lambda width: float(width), 256) == 1
    assert curve.find_step(lambda width: 3.0, 256) == 1
    assert curve.find_step(lambda width: float(width), 3) == 1


def test_noise_makes_no_steps():
    rng = np.random.default_rng(0)
    noise = dict(enumerate(1 + 0.01 * rng.uniform(-1, 1, 300)))
    assert curve.find_step(lambda w: (5.0 + w) * noise[w], 256) == 1
    jittery = steps_of(16)
    assert curve.find_step(lambda w: jittery(w) * noise[w], 128) == 16


@given(
    st.integers(1, 400),
    st.sampled_from([1, 4, 8, 16, 32]),
    st.sampled_from([0.0, 0.4]),
)
def test_all_widths_follow_from_the_grid(width, step, alone):
    time = steps_of(step, alone)
    grid = curve.grid(width, step)
    assert len(grid) <= 6 * curve.TOGETHER + 1
    assert grid[-1] == width
    values = curve.staircase([(w, time(w)) for w in grid], width, step)
    expected = [0.0] + [time(w) for w in range(1, width + 1)]
    np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_kernels_that_alternate_are_told_apart():
    def time(width):  # pairs of steps cost less than one and a half
        pairs, rest = divmod(math.ceil(width / 16), 2)
        return 2.0 * pairs + 1.6 * rest

    width = 640
    grid = curve.grid(width, 16)
    values = curve.staircase([(w, time(w)) for w in grid], width, 16)
    expected = [0.0] + [time(w) for w in range(1, width + 1)]
    np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_anchors_are_whole_steps_within_the_width():
    assert curve.anchors(64, 1) == [16, 32, 64]
    assert curve.anchors(60, 8) == [16, 32, 60]
    assert curve.anchors(1, 1) == [1]
    assert curve.anchors(3, 8) == [3]


def test_lines_go_on_straight_and_stay_positive():
    x, y = np.array([10.0, 20.0]), np.array([1.0, 3.0])
    np.testing.assert_allclose(
        curve.line(x, y, np.array([15, 25, 30])), [2.0, 4.0, 5.0]
    )
    assert (curve.line(x, y, np.arange(1, 5)) > 0).all()
