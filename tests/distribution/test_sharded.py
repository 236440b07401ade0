"""keras.distribution, which Keras has on JAX."""

from __future__ import annotations

import pytest
from programs import python_with
from programs import run


def on_jax(*arguments):
    return run("sharded.py", *arguments, python=python_with("jax"))


def test_copies_are_split_over_devices_as_far_as_sizes_allow():
    written = on_jax("copies_are_split")
    assert written.count("do not divide evenly") == 1
    assert "'conv2/bias' (5,) over 'model'" in written
    assert "round_to=2" in written


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["data", "model"])
def test_samples_need_not_divide(distribution):
    on_jax("measures_as_one_device", distribution)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["data", "model"])
def test_a_recovery_that_trains_takes_the_steps_of_one_device(distribution):
    on_jax("learns_as_on_one_device", distribution)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("distribution", "callback"),
    [
        ("data", "prune"),
        ("data", "attenuate"),
        ("data", "soft"),
        ("data", "duplicate"),
        ("model", "prune"),
    ],
)
def test_callbacks_give_the_masks_of_one_device(distribution, callback):
    on_jax("trains_as_on_one_device", distribution, callback)
