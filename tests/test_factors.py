from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kprune import factors
from kprune import schedules
from kprune.factors import Constant
from kprune.factors import Cosine
from kprune.factors import Exponential
from kprune.factors import Function
from kprune.factors import Linear

share = st.floats(0, 1)


def test_names_numbers_functions_and_objects_resolve():
    assert factors.get("constant") == Constant(0.5)
    assert factors.get("linear") == Linear(1, 0)
    assert factors.get("cosine") == Cosine(1, 0)
    assert factors.get("exponential") == Exponential(1, 0.01)
    assert factors.get(0) == Constant(0)
    assert factors.get(0.3)(0.9) == 0.3
    assert factors.get(lambda p: p / 2)(0.5) == 0.25
    given = Linear(0.9, 0.1, tail=2, scale_slots=True)
    assert factors.get(given) is given
    assert factors.names() == ["constant", "cosine", "exponential", "linear"]


@given(start=share, stop=share, progress=share)
def test_factors_go_from_start_to_stop(start, stop, progress):
    low, high = min(start, stop), max(start, stop)
    kinds = [Linear, Cosine]
    if low > 1e-6:
        kinds.append(Exponential)
    for kind in kinds:
        factor = kind(start, stop)
        assert factor(0) == pytest.approx(start)
        assert factor(1) == pytest.approx(stop)
        assert low - 1e-9 <= factor(progress) <= high + 1e-9


def test_the_middle_tells_the_shapes_apart():
    assert Linear()(0.25) == 0.75
    assert Cosine()(0.25) == pytest.approx(0.8536, abs=1e-4)
    assert Exponential(1, 0.01)(0.25) == pytest.approx(10**-0.5)
    # Equal ratios from round to round.
    values = [Exponential(0.9, 0.1)(k / 4) for k in range(1, 5)]
    ratios = [b / a for a, b in itertools.pairwise(values)]
    assert ratios == pytest.approx([ratios[0]] * 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(1.5), "Constant needs a number from 0"),
        (lambda: factors.get(-0.1), "value=-0.1"),
        (lambda: Linear(stop=True), "stop=True"),
        (lambda: Exponential(stop=0), "above 0"),
        (lambda: Constant(tail=-1), "whole number of periods, 0"),
        (lambda: Constant(tail=1.5), r"tail=1\.5"),
        (lambda: factors.get("liner"), "Did you mean 'linear'"),
        (lambda: Function(lambda p: 2.0)(0.5), "returned 2.0 for progress 0.5"),
    ],
)
def test_wrong_values_are_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_kinds_are_said():
    with pytest.raises(TypeError, match="f\\(progress\\)"):
        Function(0.5)
    with pytest.raises(TypeError, match="Create an instance"):
        factors.get(Linear)


# -- the rounds of schedules ---------------------------------------------------


def test_a_constant_schedule_wants_everything_at_once():
    schedule = schedules.Constant(begin=2, end=7, every=2)
    assert [schedule(e) for e in range(9)] == [0.0] * 2 + [1.0] * 7
    assert schedule.rounds() == [2, 4, 6, 7]
    assert schedules.get("constant").rounds(epochs=9) == list(range(6))


def test_the_asymptote_goes_through_its_three_points():
    schedule = schedules.Asymptotic(begin=0, end=15)
    assert schedule.rounds() == list(range(16))
    # Rounds 2 and 16 of 16.
    assert schedule(1) == pytest.approx(0.75)
    assert schedule(15) == 1.0
    shares = [schedule(e) for e in range(16)]
    assert shares == sorted(shares)
    assert schedules.get("asymptotic") == schedules.Asymptotic()
    config = schedule.get_config()
    assert schedules.Asymptotic.from_config(config) == schedule


def test_every_schedule_has_rounds():
    assert schedules.OneShot(3).rounds() == [3]
    assert schedules.Linear(1, 4).rounds() == [1, 2, 3, 4]
    assert schedules.Polynomial(0, 4, every=3).rounds() == [0, 3, 4]
    assert schedules.get(lambda e: 0.5).rounds(epochs=6) == [0, 1, 2, 3]
    for schedule in ("linear", lambda e: 0.5):
        with pytest.raises(ValueError, match="their number is unknown"):
            schedules.get(schedule).rounds()
