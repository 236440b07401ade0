"""The worked example of CONTRIBUTING.md: one file and its test."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kprune
from kprune import lazy
from kprune.registry import modules

ROOT = Path(__file__).parents[2]
SOURCE, TEST = re.findall(
    r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL
)


@pytest.fixture
def added(tmp_path, monkeypatch):
    """Puts the file beside the other criteria, and takes it away again."""
    (tmp_path / "linf.py").write_text(SOURCE)
    found = {**modules("criteria"), "linf": "kprune.criteria.linf"}
    place = [*kprune.criteria.__path__, str(tmp_path)]
    monkeypatch.setattr(kprune.criteria, "__path__", place)
    registry = kprune.criteria.base.registry
    monkeypatch.setattr(registry, "_modules", found)
    monkeypatch.setattr(registry, "_own", dict(registry._own))
    monkeypatch.setattr(lazy, "modules", lambda kind: found)
    yield
    vars(kprune.criteria).pop("LInf", None)
    vars(kprune.criteria).pop("linf", None)
    sys.modules.pop("kprune.criteria.linf", None)


def test_the_example_passes_its_test(added):
    place = {}
    exec(TEST, place)
    tests = [value for name, value in place.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_the_example_prints_as_it_says(added):
    found = importlib.import_module("kprune.criteria.linf").LInf(quantile=0.9)
    assert f"`{found!r}`" in (ROOT / "CONTRIBUTING.md").read_text()
    assert kprune.criteria.LInf.from_config(found.get_config()).quantile == 0.9
    assert "linf" in kprune.criteria.names()


RECIPE = """
from kprune.callbacks import PruneCallback
from kprune.recipes.base import Recipe
from kprune.recipes.base import register

@register("shortest-first")
class ShortestFirst(Recipe):
    summary = "The shortest filters go before the first epoch."
    citation = "Nobody, 2026"
    url = "https://example.org"
    when = "Never."
    defaults = {"criterion": "linf", "allocation": "global"}

    def actions(self):
        return [PruneCallback(**self.parts, **self.task)]
"""


@pytest.mark.slow
def test_one_file_is_enough_for_a_method_everywhere(tmp_path):
    """In `kprune.recipe`, `--method`, the placing table and the arms."""
    ignored = shutil.ignore_patterns("__pycache__", "results", "*.pyi")
    for source, place in (
        ("kprune", "kprune"),
        ("callbacks", "kprune/callbacks"),
        (".ci", ".ci"),
        ("benchmarks", "benchmarks"),
    ):
        shutil.copytree(ROOT / source, tmp_path / place, ignore=ignored)
    shutil.copy(ROOT / "kprune/__init__.pyi", tmp_path / "kprune")
    (tmp_path / "kprune/criteria/linf.py").write_text(SOURCE)
    (tmp_path / "kprune/recipes/shortest_first.py").write_text(RECIPE)
    code = """
import sys
sys.path[:0] = [".", ".ci", "benchmarks", "benchmarks/methods"]
from kprune.commands.options import listed
assert "shortest-first" in listed("recipes")
import kprune
import placing
import arms
name = "shortest-first"
assert kprune.__file__.startswith(sys.argv[1]), kprune.__file__
recipe = kprune.recipe(name, epochs=3)
assert recipe.callbacks[-1].criterion == "linf"
assert not placing.lacking(name)
assert placing.row(name, {})[1:3] == ("weights", "not needed")
assert arms.find([name]) == [name]
found = arms.ARMS[name].recipe({"macs": 0.5}, None, arms.Run(3, 0))
assert type(found) is type(recipe)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_one_file_is_enough_for_the_command_line(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kprune", tmp_path / "kprune", ignore=ignored)
    (tmp_path / "kprune/criteria/linf.py").write_text(SOURCE)
    code = """
import sys
sys.path.insert(0, ".")
from kprune.commands.options import listed
print(listed("criteria"), "keras" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert ", linf, " in done.stdout and done.stdout.endswith("False\n")
