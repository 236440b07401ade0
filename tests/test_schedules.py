from __future__ import annotations

import json

import pytest

from kprune import schedules
from kprune.schedules import Linear
from kprune.schedules import OneShot
from kprune.schedules import Polynomial


def values(schedule, epochs):
    return [schedule(epoch, epochs) for epoch in range(epochs)]


def test_one_shot_jumps_at_its_epoch():
    assert values(OneShot(), 2) == [1.0, 1.0]
    assert values(OneShot(epoch=2), 4) == [0.0, 0.0, 1.0, 1.0]


def test_linear_takes_equal_steps_from_begin_to_end():
    assert values(Linear(begin=1, end=4), 6) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_polynomial_is_cubic_in_the_rounds_done():
    schedule = Polynomial(begin=2, end=5)
    for epoch in range(2, 6):
        rounds_left = 1 - (epoch - 1) / 4
        assert schedule(epoch) == pytest.approx(1 - rounds_left**3)
    assert schedule(1) == 0.0
    assert schedule(99) == 1.0


def test_power_one_is_linear():
    line, polynomial = Linear(0, 6), Polynomial(0, 6, power=1)
    assert values(polynomial, 9) == pytest.approx(values(line, 9))


def test_every_prunes_in_rounds_and_always_reaches_the_end():
    # Rounds at 0, 3, 6 and, since 7 is the end, at 7.
    shares = values(Linear(begin=0, end=7, every=3), 9)
    assert shares == [0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    "schedule", [Linear(), Polynomial(), schedules.get(None)]
)
@pytest.mark.parametrize("epochs", [1, 2, 3, 10, 30])
def test_without_an_end_two_thirds_of_the_epochs_are_used(schedule, epochs):
    shares = values(schedule, epochs)
    assert shares == sorted(shares)
    assert shares.index(1.0) == max(0, 2 * epochs // 3 - 1)


def test_without_an_end_the_number_of_epochs_is_needed():
    with pytest.raises(
        ValueError, match=r"Set its end, for example Linear\(begin"
    ):
        Linear()(3)


def test_begin_behind_the_two_thirds_is_one_shot():
    assert values(Polynomial(begin=8), 9) == [0.0] * 8 + [1.0]


@pytest.mark.parametrize(
    "schedule",
    [OneShot(3), Linear(1, 5, every=2), Polynomial(0, None, power=2)],
)
def test_config_survives_json(schedule):
    config = json.loads(json.dumps(schedule.get_config()))
    again = type(schedule).from_config(config)
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert repr(again) == repr(schedule)
    assert schedule != OneShot(99)


def test_strings_objects_and_functions_resolve():
    assert schedules.get("one_shot") == OneShot()
    assert schedules.get("polynomial") == Polynomial()
    line = Linear(0, 3)
    assert schedules.get(line) is line
    assert schedules.get(lambda epoch: 0.1 * epoch)(
        3, epochs=9
    ) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="Did you mean 'linear'"):
        schedules.get("liner")


@pytest.mark.parametrize("share", [1.5, -0.1, None, float("nan")])
def test_functions_must_return_a_share(share):
    def mine(epoch):
        return share

    with pytest.raises(
        ValueError, match=r"function mine must return.*for epoch 2"
    ):
        schedules.get(mine)(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneShot(-1), "epoch=-1"),
        (lambda: OneShot(1.5), "epoch=1.5"),
        (lambda: OneShot(True), "epoch=True"),
        (lambda: Linear(5, 3), r"Linear must not end.*OneShot\(epoch=3\)"),
        (lambda: Linear(0, 3, every=0), "1 or more, as `every`"),
        (lambda: Polynomial("2", 3), "begin='2'"),
        (lambda: Polynomial(0, 3, power=0), "power=0"),
        (lambda: Polynomial(0, 3, power="3"), "power='3'"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_increments_take_the_same_share_of_the_costs_each_round():
    schedule = schedules.Increments(0.03, target=0.1, begin=1, every=2)
    shares = [0.1 * schedule(epoch) for epoch in range(9)]
    expected = [0, 0.03, 0.03, 0.06, 0.06, 0.09, 0.09, 0.1, 0.1]
    assert shares == pytest.approx(expected)
    assert schedule.rounds() == [1, 3, 5, 7]
    assert schedules.Increments(0.05, target=0.15)(2) == 1.0  # not a 4th round


def test_increments_take_their_target_from_what_is_reduced():
    schedule = schedules.get("increments")
    with pytest.raises(ValueError, match=r"target=0\.5"):
        schedule(0)
    bound = schedule.toward({"macs": 0.3, "params": 0.6})
    assert bound == schedules.Increments(0.03, target=0.6)
    assert bound.toward({"macs": 0.9}) is bound
    assert schedules.get("linear").toward({"macs": 0.3}) == schedules.Linear()


def test_increments_say_when_the_epochs_do_not_suffice():
    schedule = schedules.Increments(0.1, target=0.35)
    assert schedule(3, epochs=4) == 1.0
    with pytest.raises(ValueError, match="needs 4 epochs, but there are 3"):
        schedule(0, epochs=3)


@pytest.mark.parametrize(
    "options", [{"step": 0}, {"target": 1.2}, {"every": 0}]
)
def test_bad_increments_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        schedules.Increments(**options)


def test_a_function_without_epochs_is_told_of_a_schedule_with_an_end():
    with pytest.raises(
        ValueError, match=r"example Polynomial\(begin=0, end=10"
    ):
        schedules.get(lambda epoch: 1.0).rounds()
    with pytest.raises(ValueError, match=r"Set its end, for example Linear\("):
        Linear(begin=2).rounds()
