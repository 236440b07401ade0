from __future__ import annotations

import pytest

from kprune.registry import Registry
from kprune.registry import did_you_mean


class Fruit:
    def __init__(self, taste=None):
        self.taste = taste


@pytest.fixture
def fruits():
    registry = Registry("fruit", Fruit, Fruit)

    @registry.register("apple")
    class Apple(Fruit):
        pass

    registry.apple = Apple
    return registry


def test_a_name_gives_a_fresh_object(fruits):
    first, second = fruits.get("apple"), fruits.get("apple")
    assert isinstance(first, fruits.apple)
    assert first is not second


def test_an_object_passes_through(fruits):
    pear = Fruit()
    assert fruits.get(pear) is pear


def test_functions_are_adapted_plain_or_registered(fruits):
    def sour():
        return "sour"

    assert fruits.get(sour).taste is sour
    assert fruits.register("lemon")(sour) is sour
    assert fruits.get("lemon").taste is sour
    assert fruits.names == ["apple", "lemon"]


def test_unknown_names_list_the_known_ones_and_close_matches(fruits):
    with pytest.raises(
        ValueError, match=r"Unknown fruit 'aple'.*mean 'apple'.*Known"
    ):
        fruits.get("aple")


def test_wrong_types_are_refused_with_the_way_out(fruits):
    with pytest.raises(TypeError, match=r"Make an object of it: Apple\(...\)"):
        fruits.get(fruits.apple)
    with pytest.raises(TypeError, match="Received: 3"):
        fruits.get(3)
    with pytest.raises(TypeError, match="registered under a string"):
        fruits.register(Fruit)


def test_a_taken_name_is_refused(fruits):
    with pytest.raises(ValueError, match="'apple' is taken"):
        fruits.register("apple")


def test_hint_without_close_match_or_names():
    assert did_you_mean("zzz", ["abc"]) == "Known names: 'abc'."
    assert did_you_mean("zzz", []) == "Known names: none."
