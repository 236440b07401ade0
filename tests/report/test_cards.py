"""Notebooks show cards: escaped, without scripts, in the colours around them."""

from __future__ import annotations

import builtins
import html
import re
import xml.etree.ElementTree as ET

import keras
import numpy as np
import pytest
from fitting import arrays
from runs.running import compiled

import kprune
from kprune.display import Displayed

EVIL = "<script>alert(1)<b>&"


@pytest.fixture(scope="module")
def model():
    return compiled()


@pytest.fixture(scope="module")
def things(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    kprune.prune(model, "l1", {"macs": 0.4}, run_dir=folder)
    return {
        "graph": kprune.trace(model),
        "cost": kprune.cost(model),
        "export": kprune.export(model, folder / f"{EVIL[1:7]}.keras"),
        "recipe": kprune.recipe(
            "similarity", {"macs": 0.5}, epochs=9, criterion="l2"
        ),
        "sensitivity": kprune.sensitivity(model, arrays(), shares=[0.5]),
        "run": kprune.Run(folder),
    }


KINDS = ("graph", "cost", "export", "recipe", "sensitivity", "run")


def words(text):
    text = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_is_well_formed_runs_nothing_and_has_no_colour_of_its_own(
    things, kind
):
    text = things[kind]._repr_html_()
    root = ET.fromstring(text.replace("xlink:href", "href"))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"script", "iframe", "link", "img", "object"}
    names = {name for element in root.iter() for name in element.attrib}
    assert not [name for name in names if name.startswith("on")]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
    # Text takes the colour around it, lines are grey: readable on any theme.
    assert set(re.findall(r"[^-]color: ([^;]+);", style)) == {"inherit"}
    assert set(re.findall(r"background[^:]*: ([^;]+);", style)) == {"none"}
    assert "#000000" not in text


def test_cards_say_what_the_objects_hold(things, model):
    shown = {kind: words(things[kind]._repr_html_()) for kind in KINDS}
    graph, cost, report = (things[k] for k in ("graph", "cost", "export"))
    for group in graph.groups:
        assert f" {group.name} " in shown["graph"]
        assert (group.pinned or "") in shown["graph"]
    for row in cost.table:
        figures = f"{row.macs:,} {row.params:,} {row.bytes:,}"
        assert f"{row.name} {row.kind} {figures}" in shown["cost"]
    assert f"{report.max_rel:.2e} relative" in shown["export"]
    recipe = things["recipe"]
    assert "Removes 50 % of the MACs in 9 epochs." in shown["recipe"]
    for name in recipe.parts:
        assert f" {name} " in shown["recipe"]
    found = things["sensitivity"]
    for name, curve in found.curves.items():
        value = f"{curve.values['loss'][1]:.4g}"
        assert re.search(
            rf" {name} {curve.size} .*{value}", shown["sensitivity"]
        )
    run = things["run"].record
    for group in run["groups"]:
        left = group["size"] - len(group["removed"])
        if not group["pinned"]:
            assert f"{group['name']} {left} of {group['size']}" in shown["run"]


@pytest.mark.parametrize("kind", ("graph", "cost"))
def test_names_are_escaped(kind):
    net = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name=EVIL),
            keras.layers.Dense(2),
        ]
    )
    thing = {"graph": kprune.trace, "cost": kprune.cost}[kind](net)
    text = thing._repr_html_()
    assert f">{html.escape(EVIL)}<" in text
    assert "<script" not in text


def test_addresses_of_recipes_are_links_only_on_the_web(things):
    recipe = things["recipe"]
    assert f'href="{recipe.url}"' in recipe._repr_html_()

    class Own(type(recipe)):
        url = "javascript:alert(1)"

    assert "javascript" not in Own({"macs": 0.5}, epochs=9)._repr_html_()


def test_the_text_stays_as_it_was(things):
    assert repr(things["graph"]).startswith("<ChannelGraph of")
    assert repr(things["cost"]).startswith("Cost(macs=")
    assert repr(things["recipe"]) == (
        "Similarity(reduce={'macs': 0.5}, epochs=9, criterion='l2')"
    )
    assert re.fullmatch(r"<Run '\d{8}-.*-l1', finished>", repr(things["run"]))


def test_without_jinja2_notebooks_show_the_text(things, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "jinja2":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert all(thing._repr_html_() is None for thing in things.values())


def test_a_run_stands_for_its_folder(things):
    run = things["run"]
    masked = kprune.replay(run)
    left = {name: int(np.sum(m)) for name, m in kprune.masks(masked).items()}
    removed = {
        g["name"]: g["size"] - len(g["removed"])
        for g in run.record["groups"]
        if not g["pinned"]
    }
    assert left == removed


def test_what_is_displayed_has_a_card():
    def below(cls):
        return [cls, *(c for sub in cls.__subclasses__() for c in below(sub))]

    from kprune.report.cards import card

    fallback = card.registry[object]
    for cls in below(Displayed)[1:]:
        assert card.dispatch(cls) is not fallback, cls
