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
