"""tf.distribute.MirroredStrategy."""

from __future__ import annotations

import pytest
from programs import run

pytestmark = pytest.mark.tensorflow


def test_copies_outside_the_scope_stay_with_their_strategy():
    run("mirrored.py", "copies_stay_with_their_strategy")


@pytest.mark.slow
def test_inside_a_scope_everything_is_as_on_one_device():
    run("mirrored.py", "a_scope_that_is_entered_holds")


@pytest.mark.slow
@pytest.mark.parametrize("recovery", ["Mimic", "InteractionMatch"])
def test_recoveries_that_train_take_the_steps_of_one_device(recovery):
    run("mirrored.py", "learns_as_on_one_device", recovery)


@pytest.mark.slow
def test_an_added_loss_counts_once():
    run("mirrored.py", "an_added_loss_counts_once")


@pytest.mark.slow
def test_the_page_runs():
    run("mirrored.py", "the_page_runs")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["kdfs", "manidp"])
def test_gates_are_those_of_one_device(recipe):
    run("mirrored.py", "gates_train_on_both", recipe)


@pytest.mark.slow
@pytest.mark.parametrize(
    "callback", ["prune", "loss", "attenuate", "soft", "duplicate"]
)
def test_callbacks_give_the_masks_of_one_device(callback):
    run("mirrored.py", "trains_as_on_one_device", callback)
