"""Python blocks of README.md and docs/ run, in the order and with the names shown.

A page that continues another one has the names of that page's first block. A
block that cannot run has a comment in front of it that says why.
"""

from __future__ import annotations

import re

import keras
import pages
import pytest

import kprune

pytestmark = pytest.mark.tensorflow

QUICK_START = pages.DOCS / "quickstart.md"
CHEAP = ("files.md", "idea.md")
"""Pages that are run by default; all others take many seconds."""

ELSEWHERE = {
    "custom_layers.md": "tests/graph/test_unknown.py",
    "custom_loops.md": "tests/session/test_session.py",
}
"""Pages that another test runs, which asks more of them."""

NEEDS = {
    "coming_from.md": "tensorflow_model_optimization",
    "latency.md": "ethosu",
    "quantization.md": "tensorflow_model_optimization",
    "servers.md": "onnxruntime",
    "sweep.md": "optuna",
}
"""Optional packages of pages, beside scikit-learn for its digits."""

NOT_RUN = {
    "backends.md": 1,
    "coming_from.md": 2,
    "custom_loops.md": 2,
    "distribution.md": 3,
    "files.md": 1,
}
"""Blocks of a page that are not run, each for the reason in front of it."""


def named(page) -> str:
    return page.relative_to(pages.DOCS).as_posix()


PAGES = {named(page): page for page in pages.pages()}


def runnable():
    """Return the pages with Python code, those that take long marked."""
    slow = pytest.mark.slow
    found = [
        page
        for page, path in PAGES.items()
        if page not in ELSEWHERE and pages.blocks(path, "python")
    ]
    return [
        pytest.param(page, marks=() if page in CHEAP else slow)
        for page in found
    ]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Run the first block of the quick start, and keep its model in a file."""
    place: dict = {}
    pages.blocks(QUICK_START, "python")[0].run(place)
    file = tmp_path_factory.mktemp("start") / "model.keras"
    place["model"].save(file)
    return place, file


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    """Return the names that a page begins with; what it registers is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for registry in (
        kprune.recipes.base.registry,
        kprune.latency.runtimes.base.registry,
    ):
        monkeypatch.setattr(registry, "_factories", dict(registry._factories))

    def begin(page):
        beginning = pages.beginning(page)
        if beginning is None:
            return {}
        assert beginning == QUICK_START
        pytest.importorskip("sklearn")
        names, file = request.getfixturevalue("start")
        return {**names, "model": keras.saving.load_model(file)}

    return begin


@pytest.mark.parametrize("page", runnable())
@pytest.mark.filterwarnings(
    # TF-MOT compares versions with a copy of distutils that says so.
    "ignore:distutils Version classes are deprecated:DeprecationWarning"
)
def test_the_code_of_a_page_runs(page, place):
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    path = PAGES[page]
    pages.run(path, **place(path))


def test_blocks_that_are_not_run_say_why_and_are_counted():
    found: dict[str, int] = {}
    for page, path in PAGES.items():
        for block in pages.blocks(path):
            if block.reason is not None:
                assert block.language == "python", (page, block.line)
                assert len(block.reason.split()) > 2, (page, block.line)
                for test in re.findall(r"tests/[\w/]+(?:\.py)?", block.reason):
                    assert (pages.ROOT / test).exists(), (page, test)
                found[page] = found.get(page, 0) + 1
    assert found == NOT_RUN


@pytest.mark.parametrize("page", ELSEWHERE)
def test_pages_that_are_run_elsewhere_are(page):
    assert page in (pages.ROOT / ELSEWHERE[page]).read_text("utf-8")


def test_python_is_marked_as_python():
    """A block without a language is a command line."""
    python = re.compile(
        r"^(import|from|def|class) |\bkprune\.\w+\(|^\w+ = ", re.M
    )
    for path in [pages.ROOT / "README.md", *PAGES.values()]:
        for block in pages.blocks(path, ""):
            assert not python.search(block.code), (path, block.line)


def test_markers_stand_in_front_of_a_block():
    for page, path in PAGES.items():
        marked = sum(b.reason is not None for b in pages.blocks(path))
        assert path.read_text("utf-8").count("<!-- not run") == marked, page
