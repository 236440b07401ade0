from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import kprune
from kprune import registry
from kprune.registry import Registry
from kprune.registry import modules
from kprune.schedules.base import FunctionSchedule
from kprune.schedules.base import Schedule

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("lists", ROOT / ".ci/lists.py")
lists = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lists)


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
    with pytest.raises(TypeError, match=r"Create an instance: Apple\(...\)"):
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


KINDS = sorted(lists.KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_registers_its_name_and_offers_its_class(kind):
    package = getattr(kprune, kind)
    found = {n: package.base.registry.factory(n) for n in modules(kind)}
    assert {n: c.__module__ for n, c in found.items()} == modules(kind)
    assert package.names() == sorted(package.base.registry.names)
    for cls in found.values():
        assert getattr(package, cls.__name__) is cls
        assert cls.__name__ in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        package.Nonsense  # noqa: B018


def test_formats_and_runtimes_are_found_like_other_parts():
    from kprune.export import formats
    from kprune.latency import runtimes

    for package, kind in ((formats, "formats"), (runtimes, "runtimes")):
        factory = package.base.registry.factory
        found = {n: factory(n).__module__ for n in modules(kind)}
        assert found == modules(kind)
    assert runtimes.LiteRT is runtimes.base.registry.factory("litert")


@pytest.mark.parametrize("kind", KINDS)
def test_stub_files_name_what_is_there(kind):
    stub = ROOT / "kprune" / kind / "__init__.pyi"
    names = re.findall(r" as (\w+)$", stub.read_text("utf-8"), re.M)
    assert len(names) > 4
    assert set(names) <= set(dir(getattr(kprune, kind)))


def test_the_stub_file_of_callbacks_names_what_is_there():
    stub = ROOT / "kprune" / "callbacks.pyi"
    names = re.findall(r" as (\w+)$", stub.read_text("utf-8"), re.M)
    assert {"PruneCallback", "PruningCallback"} <= set(names)
    assert set(names) <= set(dir(kprune.callbacks))


@pytest.mark.parametrize("label", lists.ROWS)
def test_the_table_of_the_readme_is_complete(label):
    text = (ROOT / "README.md").read_text("utf-8")
    (cell,) = re.findall(rf"^\| `{label}`[^|]*\|([^|]*)\|", text, re.M)
    listed = set(re.findall(r"`(\w+)`", cell))
    assert listed == set(modules(lists.ROWS[label]))


SOURCES = [*ROOT.glob("kprune/**/*.py"), *ROOT.glob("callbacks/*.py")]
ARGUMENTS = {
    "criterion": "criteria",
    "allocation": "allocation",
    "recover": "recovery",
    "schedule": "schedules",
    "factor": "factors",
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_names_in_docstrings_and_examples_are_registered(argument):
    known = set(modules(ARGUMENTS[argument]))
    used = set()
    for path in SOURCES:
        text = path.read_text("utf-8")
        used |= set(re.findall(rf'\b{argument}="([\w-]+)"', text))
        entries = re.findall(
            rf"^ {{8}}{argument}: (.*\n(?: {{12}}.*\n)*)", text, re.M
        )
        for entry in entries:
            used |= set(re.findall(r'`"([\w-]+)"`', entry))
    assert used and used <= known
