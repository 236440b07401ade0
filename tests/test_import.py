"""What `import kprune` binds, and that it is light."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import types
from pathlib import Path

import keras
import pytest

import kprune
from kprune import lazy
from kprune.regularizers import HierarchicalGroupSparsity

ROOT = Path(__file__).parents[1]
SOURCES = [*ROOT.glob("kprune/**/*.py"), *ROOT.glob("callbacks/*.py")]


def python(code, folder):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()


def test_a_bare_import_is_light_and_lists_the_public_names(tmp_path):
    code = """
import sys
sys.argv[0] = "kprune.py"
import kprune
from kprune.registry import modules
print(*dir(kprune))
print(*modules("recipes"))
print({"keras", "numpy", "typer"} & set(sys.modules))
"""
    names, recipes, heavy = python(code, tmp_path)
    assert names.split() == dir(kprune)
    assert recipes.split() == kprune.recipes.names()
    assert heavy == "set()"


@pytest.mark.parametrize(
    "imports", ["import kprune, keras", "import keras, kprune"]
)
def test_files_of_masked_models_load_after_a_bare_import(tmp_path, imports):
    layers = [keras.layers.Conv2D(4, 3), keras.layers.Conv2D(3, 3)]
    model = kprune.wrap(keras.Sequential([keras.Input((6, 6, 1)), *layers]))
    kprune.regularizers.attach(model, HierarchicalGroupSparsity())
    model.save(tmp_path / "masked.keras")
    code = f"""
{imports}
before = "kprune.masking" in __import__("sys").modules
model = keras.saving.load_model("masked.keras")
print(before, type(model.layers[-2]) is kprune.FilterMask)
"""
    assert python(code, tmp_path) == ["False True"]


def test_every_public_name_is_there():
    assert all(getattr(kprune, name) is not None for name in dir(kprune))
    assert {"wrap", "callbacks", "criteria", "__version__"} <= set(dir(kprune))
    with pytest.raises(AttributeError, match="no attribute 'warp'"):
        kprune.warp  # noqa: B018


@pytest.mark.parametrize("name", ["cost", "export", "rebuild", "sensitivity"])
def test_functions_win_over_the_subpackages_of_their_name(name):
    setattr(kprune, name, sys.modules[f"kprune.{name}"])
    assert inspect.isfunction(getattr(kprune, name))


def test_attributes_can_be_replaced(monkeypatch):
    monkeypatch.setattr(kprune, "cost", None)
    assert kprune.cost is None


def test_keras_knows_all_classes_that_are_saved():
    saved = re.compile(
        r"^@keras\.saving\.register_keras_serializable.*\nclass (\w+)", re.M
    )
    found = {n for p in SOURCES for n in saved.findall(p.read_text("utf-8"))}
    assert {f"kprune>{name}" for name in found} == set(lazy.SAVED)


def test_registering_leaves_a_loaded_class_alone(monkeypatch):
    known = keras.saving.get_custom_objects()
    assert known["kprune>FilterMask"] is kprune.FilterMask
    lazy.register_saved()
    assert known["kprune>FilterMask"] is kprune.FilterMask


def test_a_module_is_executed_before_what_runs_after_it():
    calls = []
    loader = types.SimpleNamespace(exec_module=calls.append)
    lazy._run_after(loader, lambda: calls.append("after"))
    loader.exec_module("module")
    assert calls == ["module", "after"]


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ("kprune", {"wrap", "prune", "rebuild", "Session", "criteria"}),
        ("kprune.callbacks", {"PruneCallback", "PruningCallback", "Merge"}),
        ("kprune.criteria", {"L1", "Reconstruction", "Criterion", "register"}),
        ("kprune.allocation", {"Global", "OutputError", "Latency", "request"}),
    ],
)
def test_a_star_brings_the_public_names(package, names):
    bound = {}
    exec(f"from {package} import *", bound)
    assert names <= set(bound)
    assert "part_attributes" not in bound


NAMES = dir(kprune)
EXPORT = re.compile(r"^\s*(?:from .* import )?\w+ as ([a-zA-Z]\w*)", re.M)


def exported(package):
    """What its stub file, or else its `__init__.py`, imports to offer it."""
    folder = ROOT / package.replace(".", "/")
    if package == "kprune.callbacks":
        folder = ROOT / "callbacks"
    stub = folder / "__init__.pyi"
    path = stub if stub.is_file() else folder / "__init__.py"
    return sorted(EXPORT.findall(path.read_text("utf-8")))


@pytest.mark.parametrize(
    "package",
    [p for p in (getattr(kprune, n) for n in NAMES) if inspect.ismodule(p)],
)
def test_tab_offers_the_public_names_and_nothing_else(package):
    name = package.__name__
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        importlib.import_module(module.name)
    assert dir(package) == exported(name)
    assert all(getattr(package, n) is not None for n in dir(package))
