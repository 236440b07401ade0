"""What parts need is read from their source, and is what they say themselves."""

from __future__ import annotations

import pytest

from kprune import allocation
from kprune import criteria
from kprune import recovery
from kprune.commands.needs import LABELS
from kprune.commands.needs import SAMPLES
from kprune.commands.needs import fewest_epochs
from kprune.commands.needs import needs
from kprune.commands.needs import runtime_names
from kprune.latency import runtimes
from kprune.recipes.base import registry as recipes


@pytest.mark.parametrize("name", criteria.names())
def test_criteria(name):
    told = None
    try:
        criteria.get(name).check(None)
    except ValueError as error:
        told = LABELS if "targets" in str(error) else SAMPLES
    assert needs("criteria", name) == told


def test_allocations():
    for name in allocation.names():
        part = allocation.base.registry.get(name)
        told = (
            LABELS if part.needs_loss else SAMPLES if part.needs_data else None
        )
        assert needs("allocation", name) in (told, None), name
    assert needs("allocation", "output_error") == SAMPLES
    assert needs("allocation", "greedy_loss") == LABELS


def test_recoveries():
    for name in recovery.names():
        part = recovery.get(name)
        told = SAMPLES if part.needs_data else None
        assert needs("recovery", name) == told, name


def test_runtimes():
    assert set(runtimes.names()) <= set(runtime_names())
    for name in runtime_names():
        assert runtimes.get(name).name == name


def test_epochs_of_recipes():
    for name in recipes.names:
        own = getattr(recipes.factory(name), "fewest_epochs", 1)
        assert fewest_epochs(name) == own, name
