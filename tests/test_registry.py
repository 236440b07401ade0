from __future__ import annotations

import re

import pytest

import kprune
from kprune import registry
from kprune.registry import Registry
from kprune.registry import modules
from kprune.schedules.base import FunctionSchedule
from kprune.schedules.base import Schedule


class Fruit:
    def __init__(self, taste=None):
        self.taste = taste


@pytest.fixture
def fruits():
    found = Registry("fruit", Fruit, Fruit)

    @found.register("apple")
    class Apple(Fruit):
        pass

    found.apple = Apple
    return found


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
        fruits.register("apple")(Fruit)


def test_parts_are_known_by_their_files_before_they_are_imported():
    schedules = Registry("schedule", Schedule, FunctionSchedule, "schedules")
    assert "one_shot" in schedules.names and "base" not in schedules.names
    assert modules("schedules")["linear"] == "kprune.schedules.linear"
    with pytest.raises(ValueError, match="'linear' is taken"):
        schedules.register("linear")(Fruit)


def test_files_are_named_like_their_parts_but_for_keywords_and_hyphens(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(registry, "_ROOT", tmp_path)
    monkeypatch.setattr(registry, "HYPHENATED", ("dishes",))
    for name in ("fruits", "dishes", "room/fruits"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("fruits/global_", "fruits/_peel", "fruits/base",
                 "dishes/apple_pie", "room/fruits/fig"):  # fmt: skip
        (tmp_path / f"{name}.py").touch()
    assert registry.modules.__wrapped__("fruits") == {
        "fig": "kprune.room.fruits.fig",
        "global": "kprune.fruits.global_",
    }
    assert list(registry.modules.__wrapped__("dishes")) == ["apple-pie"]


KINDS = ["schedules", "factors", "recipes"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_registers_its_name_and_offers_its_class(kind):
    package = getattr(kprune, kind)
    found = {
        name: package.base.registry.factory(name) for name in modules(kind)
    }
    assert {n: c.__module__ for n, c in found.items()} == modules(kind)
    for cls in found.values():
        assert getattr(package, cls.__name__) is cls
        assert cls.__name__ in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        package.Nonsense  # noqa: B018


@pytest.mark.parametrize("kind", KINDS)
def test_documented_lists_are_complete(kind):
    documented = getattr(kprune, kind).__doc__.partition("or any")[0]
    documented = documented.partition("or your own")[0]
    names = set(re.findall(r'`"([^"`]+)"`', documented))
    assert names == set(modules(kind))
