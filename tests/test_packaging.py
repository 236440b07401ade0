"""What a user gets from `pip install`: the files, the version, a light import."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import shutil
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
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {kprune.__version__}\n" in citation


def read_setup():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    return setup


def described(folder: Path) -> str:
    """Return the description that a package index shows."""
    command = ["setup.py", "-q", "egg_info", "--egg-base", str(folder)]
    subprocess.run(
        [sys.executable, *command], cwd=folder, check=True, capture_output=True
    )
    return (folder / "kprune.egg-info" / "PKG-INFO").read_text("utf-8")


@pytest.mark.parametrize("url", [None, "https://example.org/kprune"])
def test_links_of_the_readme_lead_somewhere_on_a_package_index(url, tmp_path):
    for name in ("setup.py", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("kprune", "callbacks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    shutil.copy(ROOT / "kprune" / "__about__.py", tmp_path / "kprune")
    if url is not None:
        setup = read_setup()
        setup["metadata"]["url"] = url
        with (tmp_path / "setup.cfg").open("w") as file:
            setup.write(file)
    link = re.compile(r"\[[^\]]+\]\(([^)]+)\)")
    written = link.findall((ROOT / "README.md").read_text("utf-8"))
    shown = link.findall(described(tmp_path))
    assert all((ROOT / path).is_file() for path in written)
    assert shown == (
        [] if url is None else [f"{url}/blob/main/{p}" for p in written]
    )


def needs(kind: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "needs.py", kind],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split()


def test_the_oldest_environment_is_what_setup_cfg_declares():
    declared = read_setup()["options"]["install_requires"].split()
    pinned = [line for line in needs("oldest") if "==" in line]
    assert pinned == [line.replace(">=", "==") for line in declared]


def test_the_readme_says_the_lower_bounds():
    text = (ROOT / "README.md").read_text("utf-8")
    options = read_setup()["options"]
    for package in ("Keras", "TensorFlow"):
        assert f"{package.lower()}>=" in options["install_requires"]
        (said,) = re.findall(rf"{package} (\d[\d.]*\d) (?:and|are)", text)
        assert f"{package.lower()}>={said}\n" in options["install_requires"]
    assert f"Python {options['python_requires'].strip('>=')} or later" in text


def test_the_core_needs_all_but_what_exports():
    declared = read_setup()["options"]["install_requires"].split()
    left_out = {r.partition(">")[0] for r in set(declared) - set(needs("core"))}
    assert left_out == {"tensorflow", "ai-edge-litert"}
    names = {r.partition(">")[0] for r in declared} - left_out
    page = (ROOT / "docs" / "backends.md").read_text("utf-8")
    (command,) = re.findall(r"pip install (keras .*)", page)
    assert set(command.split()) == names | {"jax"}


def test_every_extra_is_part_of_all():
    metadata = importlib.metadata.metadata("kprune")
    extras = set(metadata.get_all("Provides-Extra"))
    assert extras == {
        "onnx",
        "edge",
        "ethos",
        "tfmot",
        "data",
        "report",
        "sweep",
        "docs",
        "all",
        "dev",
    }
    requirements = metadata.get_all("Requires-Dist")
    (everything,) = [r for r in requirements if r.endswith('extra == "all"')]
    listed = everything.partition("[")[2].partition("]")[0].split(",")
    # The site is for those who work on kprune.
    assert set(listed) == extras - {"all", "dev", "docs"}


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
