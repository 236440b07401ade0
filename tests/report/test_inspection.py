from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.cost.model import CostModel
from kprune.report.inspection import inspection
from kprune.report.inspection import inspection_text


def residual_model() -> keras.Model:
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    y = layers.Conv2D(4, 3, padding="same", name="narrow")(x)
    y = layers.SeparableConv2D(8, 3, padding="same", name="wide")(y)
    x = layers.Flatten()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(5, name="head")(x), name="tiny")


def by_name(data: dict) -> dict:
    return {group["name"]: group for group in data["groups"]}


def test_coverage_and_totals():
    data = inspection(residual_model())
    assert data["model"] == "tiny"
    assert (
        data["coverage"]["prunable"] == 12 and data["coverage"]["pinned"] == 5
    )
    assert data["coverage"]["share"] == pytest.approx(12 / 17)
    assert sum(data["coverage"]["reasons"].values()) == 5
    assert data["macs"] == kprune.cost(residual_model()).macs
    assert data["params"] == residual_model().count_params()


def test_groups_say_where_they_sit():
    groups = by_name(inspection(residual_model()))
    assert set(groups) == {"stem", "narrow", "head"}
    assert [groups[n]["size"] for n in ("stem", "narrow", "head")] == [8, 4, 5]
    assert (
        groups["stem"]["pinned"] is None and groups["narrow"]["pinned"] is None
    )
    assert "output" in groups["head"]["pinned"]
    places = [
        (m["layer"], m["variable"], m["axis"], m["role"])
        for m in groups["stem"]["members"]
    ]
    assert ("stem", "kernel", 3, "filter") in places
    assert ("norm", "gamma", 0, "scale") in places
    assert ("norm", "moving_mean", 0, "statistic") in places
    assert ("narrow", "kernel", 2, "input") in places
    assert ("head", "kernel", 0, "input") in places


def test_costs_of_a_group_are_what_goes_with_it():
    model = residual_model()
    groups = by_name(inspection(model))
    graph = kprune.trace(model)
    costs = CostModel(graph)
    for number, group in enumerate(graph.prunable):
        without = costs.sizes.copy()
        without[number] = 0
        left = costs.evaluate(without)
        for key in ("macs", "params"):
            assert groups[group.name][key] == round(costs.full[key] - left[key])


def test_costs_of_a_pinned_group():
    head = by_name(inspection(residual_model()))["head"]
    assert head["macs"] == 6 * 6 * 8 * 5
    assert head["params"] == 6 * 6 * 8 * 5 + 5


def test_kept_channels_of_a_masked_model():
    masked = kprune.wrap(residual_model())
    assert by_name(inspection(masked))["stem"]["kept"] == 8
    kprune.set_masks(masked, {"stem": np.array([1, 0, 1, 0, 0, 1, 1, 1.0])})
    data = inspection(masked)
    assert by_name(data)["stem"]["kept"] == 5
    assert "stem  8 channels (5 kept)" in inspection_text(data)


def test_the_page_starts_with_coverage():
    lines = inspection_text(inspection(residual_model())).splitlines()
    assert lines[0] == "12 of 17 channels prunable (70.59 %)"
    assert lines[1].startswith("  5 pinned: ")
    assert lines[2].startswith("model tiny: ")
    start = lines.index(
        next(line for line in lines if line.startswith("narrow  4"))
    )
    assert "  written by:  narrow.kernel, narrow.bias" in lines[start:]
    assert any("  pinned: feeds the model output" in line for line in lines)


def test_the_data_are_json():
    data = inspection(residual_model())
    assert json.loads(json.dumps(data)) == data
