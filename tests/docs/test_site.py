"""The documentation site: every public name, every page, no network."""

from __future__ import annotations

import html.parser
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pages
import pytest

import kprune

ROOT = pages.ROOT


def load(name: str):
    path = ROOT / ".ci" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"ci_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site():
    pytest.importorskip("mkdocs", reason="needs mkdocs: the extra docs")
    return load("site")


def test_the_drawing_is_what_its_script_draws():
    drawing = load("drawing")
    assert drawing.FILE.read_text("utf-8") == drawing.drawing()


def test_the_reference_lists_what_import_kprune_offers(site):
    found = site.namespaces()
    packages = {n for n in kprune.__all__ if f"kprune.{n}" in found}
    assert set(found["kprune"]) == set(kprune.__all__) - packages
    assert {"criteria", "callbacks", "latency", "schedules"} <= packages


def test_names_of_the_reference_are_where_it_says(site):
    for namespace, names in site.namespaces().items():
        place = importlib.import_module(namespace)
        for name, path in names.items():
            module, _, attribute = path.rpartition(".")
            defined = getattr(importlib.import_module(module), attribute)
            assert getattr(place, name) is defined, (namespace, name)


def test_each_registered_part_is_in_the_reference(site):
    for kind in ("criteria", "allocation", "recovery", "schedules", "recipes"):
        listed = site.namespaces()[f"kprune.{kind}"].values()
        for name, module in site.modules(kind).items():
            assert name in site.reference(f"kprune.{kind}", {})
            parts = [p for p in listed if p.startswith(f"{module}.")]
            assert parts, f"{name} of {kind}"


class Fetched(html.parser.HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "link" and values.get("rel") not in (
            "canonical",
            "next",
            "prev",
        ):
            self.urls.append(values.get("href", ""))
        elif tag != "a":
            self.urls.append(values.get("src") or "")


def build(folder, config=ROOT / "mkdocs.yml"):
    options = [
        "--strict",
        "--config-file",
        str(config),
        "--site-dir",
        str(folder),
    ]
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", *options],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_needs_no_network(site, tmp_path):
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    found = {
        p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.html")
    }
    for page in pages.pages():
        name = page.relative_to(pages.DOCS).with_suffix(".html").as_posix()
        assert name.replace("README", "index") in found
    assert {f"api/{n}.html" for n in site.namespaces()} <= found
    for name in found:
        text = (tmp_path / name).read_text("utf-8")
        assert not [u for u in Fetched(text).urls if "//" in u], name
        assert "arithmatex" not in text, name
    text = (tmp_path / "api" / "kprune.criteria.html").read_text("utf-8")
    assert 'id="kprune.criteria.l1.L1"' in text
    assert "<math" in (tmp_path / "methods" / "similarity.html").read_text(
        "utf-8"
    )


@pytest.mark.slow
def test_a_link_that_leads_nowhere_is_an_error(site, tmp_path):
    for name in (".ci", "docs", "kprune", "callbacks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for path in ROOT.glob("*.*"):
        if path.is_file():
            shutil.copy(path, tmp_path)
    with (tmp_path / "docs" / "idea.md").open("a") as file:
        file.write("\n[lost](nowhere.md)\n")
    done = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode != 0
    assert re.search(r"idea\.md.*nowhere\.md", done.stderr)
