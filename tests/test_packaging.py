"""What a user gets from `pip install`: the files, the version, a light import."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import kprune

ROOT = Path(__file__).parents[1]


def source_files(folder: str, below: str) -> set[str]:
    """Return the paths that the modules of `folder` have once installed."""
    base = ROOT / folder
    files = [*base.rglob("*.py"), *base.rglob("__init__.pyi")]
    return {f"{below}/{path.relative_to(base)}" for path in files}


def test_build_holds_every_module_and_nothing_else(tmp_path):
    built = tmp_path / "lib"
    command = f"setup.py -q build -b {tmp_path / 'base'} --build-lib {built}"
    subprocess.run(
        [sys.executable, *command.split()],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    found = {str(p.relative_to(built)) for p in built.rglob("*") if p.is_file()}
    expected = source_files("kprune", "kprune")
    expected |= source_files("callbacks", "kprune/callbacks")
    templates = {
        f"kprune/report/templates/{path.name}"
        for path in (ROOT / "kprune/report/templates").iterdir()
    }
    others = {"kprune/py.typed", "kprune/latency/measure.sh"}
    assert found == expected | templates | others


def test_version_is_the_installed_one():
    assert importlib.metadata.version("kprune") == kprune.__version__


def test_every_extra_is_part_of_all():
    metadata = importlib.metadata.metadata("kprune")
    extras = set(metadata.get_all("Provides-Extra"))
    assert extras == {"onnx", "tfmot", "data", "report", "all", "dev"}
    requirements = metadata.get_all("Requires-Dist")
    (everything,) = [r for r in requirements if r.endswith('extra == "all"')]
    listed = everything.partition("[")[2].partition("]")[0].split(",")
    assert set(listed) == extras - {"all", "dev"}


@pytest.mark.slow
def test_import_brings_no_optional_package_and_no_global_callbacks(tmp_path):
    code = """
import importlib.util, sys
import keras
before = set(sys.modules)
import kprune, kprune.callbacks
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
print(importlib.util.find_spec("callbacks"))
"""
    # Run elsewhere, so that the installation is found and not the checkout.
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    imported, callbacks = done.stdout.splitlines()
    optional = {
        "onnx",
        "onnxruntime",
        "tf2onnx",
        "sklearn",
        "tensorflow_datasets",
    }
    optional |= {
        "tensorflow_model_optimization",
        "tf_keras",
        "matplotlib",
        "jinja2",
    }
    optional |= {"ai_edge_litert", "typer"}
    assert not optional & set(imported.split())
    assert callbacks == "None"
