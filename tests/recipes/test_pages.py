"""The pages on methods: their code runs, their tables are complete."""

from __future__ import annotations

import re

import keras
import pages
import pytest
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net

import kprune

FOLDER = pages.DOCS / "methods"
NAMES = kprune.recipes.names()


def text(name):
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def blocks(name, language):
    found = pages.blocks(FOLDER / f"{name}.md", language)
    return [block.code for block in found]


def run(name):
    """Runs all blocks of a page, with few epochs, as a reader would."""
    model = small_net(8)
    model.compile(keras.optimizers.SGD(0.05), loss())
    x, y = arrays(32)
    place = {"model": model, "train": dataset(), "x_train": x, "y_train": y}
    code = "\n".join(blocks(name, "python"))
    exec(code.replace("epochs=30", "epochs=2"), place)
    return place


@pytest.fixture
def registered(monkeypatch):
    """Puts the registry back."""
    registry = kprune.recipes.base.registry
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_has_a_page_that_shows_what_it_prints(name):
    recipe = kprune.recipe(name, data=arrays(8), epochs=30)
    assert str(recipe) in [page.strip() for page in blocks(name, "text")]
    assert recipe.url in text(name).splitlines()[-1]
    rows = re.findall(r"^\| `(\w+)` \|", text(name), re.MULTILINE)
    assert rows == list(recipe.defaults)
    assert f"[`{name}`]({name}.md)" in text("README")
    assert f"--method {name} " in text(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_code_of_each_page_begins_alike(name):
    (block,) = blocks(name, "python")
    assert f'"{name}"' in block
    # Gates that depend on the sample are averaged before a rebuild.
    lines = block.splitlines(keepends=True)
    block = "".join(x for x in lines if "close_gates(masked)" not in x)
    assert block.endswith("\n".join(blocks("attenuation", "python")[0]
        .splitlines()[3:]) + "\n")  # fmt: skip


def test_the_code_of_a_page_runs():
    place = run("similarity")
    before, after = map(kprune.cost, (place["model"], place["compact"]))
    assert after.macs <= 0.5 * before.macs


def test_the_code_of_the_overview_runs(registered, capsys):
    place = run("README")
    assert "\nrefit\n" in capsys.readouterr().out
    assert place["r"].parts == {"power": 2}
    assert "slow_l2" in kprune.recipes.names()
