"""The table of all recipes says what they are, need and cost."""

from __future__ import annotations

import importlib.util
import json
import sys

import keras
import numpy as np
import pytest
from shared_data import ROOT

import kprune

_spec = importlib.util.spec_from_file_location(
    "placing", ROOT / ".ci" / "placing.py"
)
placing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(placing)

PASSES = json.loads(placing.PASSES.read_text("utf-8"))["recipes"]
DATA = np.zeros((4, 2)), np.zeros(4)


@pytest.mark.parametrize("name", kprune.recipes.names())
def test_each_recipe_can_be_placed(name):
    assert not placing.lacking(name), name


def test_the_table_is_up_to_date():
    text = placing.PAGE.read_text("utf-8")
    assert placing.page() == text, "run `make format`"
    for name in kprune.recipes.names():
        assert f"\n| [`{name}`]({name}.md) |" in text


@pytest.mark.parametrize(
    ("name", "parts", "decides_by", "needs"),
    [
        ("similarity", {}, ("weights",), ""),
        ("similarity", {"criterion": "taylor"}, ("gradients",), "labels"),
        ("similarity", {"criterion": "apoz"}, ("activations",), "images"),
        ("hgs", {}, ("loss",), "labels"),
        ("msvfp", {}, ("weights", "loss"), "labels"),
        (
            "msvfp",
            {"allocation": kprune.allocation.GreedyLoss(criteria=["apoz"])},
            ("weights", "activations", "loss"),
            "labels",
        ),
    ],
)
def test_what_decides_follows_from_the_parts(name, parts, decides_by, needs):
    recipe = kprune.recipe(name, data=DATA, epochs=3, **parts)
    assert recipe.decides_by == decides_by
    assert recipe.needs == needs


@pytest.mark.tensorflow
def test_passes_are_counted():
    sys.path.append(str(ROOT / "benchmarks" / "methods"))
    import passes

    model = passes.network(4)
    masked = kprune.wrap(model)
    counter = passes.Counter(model)
    x = np.zeros((6, 8, 8, 1), "float32")
    masked.run_eagerly = True
    with counter.counting():
        masked(x)
        assert counter.counts["forward"] == pytest.approx(6)
        model.get_layer("conv2")(keras.ops.zeros((5, 8, 8, 4)))
        macs = kprune.cost(model).macs
        part = 5 * 8 * 8 * 9 * 4 * 4 / macs
        assert counter.counts["forward"] == pytest.approx(6 + part)
        masked.train_on_batch(x, np.zeros(6))
        assert counter.counts["gradients"] == pytest.approx(6)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", kprune.recipes.names())
def test_what_is_written_down_is_measured(name):
    assert name in PASSES, f"run `python benchmarks/methods/passes.py {name}`"
    sys.path.append(str(ROOT / "benchmarks" / "methods"))
    import passes

    width = passes.WIDTHS[0]
    known = PASSES[name][str(width)]
    assert passes.measure(name, width) == pytest.approx(known, abs=0.5)
