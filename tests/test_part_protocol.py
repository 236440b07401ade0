"""All registered parts: what they print makes them, and their configuration too."""

from __future__ import annotations

import inspect
import json

import keras
import numpy as np
import pytest

import kprune
from kprune import parts
from kprune.duplication import Copies
from kprune.duplication import Split
from kprune.registry import modules
from kprune.sensitivity import Curve

KINDS = ["criteria", "allocation", "recovery", "schedules", "factors"]
NAMED = [(kind, name) for kind in KINDS for name in modules(kind)]
CALLBACKS = [
    name
    for name in dir(kprune.callbacks)
    if name.endswith("Callback") and name != "PruningCallback"
]
DATA = np.zeros((8, 4)), np.zeros(8)


def others(cls):
    """Arguments that are not the defaults, as far as the defaults tell."""
    found = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        default = parameter.default
        if isinstance(default, bool):
            found[name] = not default
        elif isinstance(default, int):
            found[name] = default + 1
        elif isinstance(default, float):
            found[name] = 0.5 * default + 0.125
    return found


class Names(dict):
    """Names as in `from kprune.criteria import *` and the like."""

    def __init__(self, first):
        super().__init__()
        self.packages = [first, kprune.criteria, kprune.allocation]
        self.packages += [kprune.schedules, kprune.factors, kprune.callbacks]
        self.packages += [
            kprune.duplication,
            kprune.regularizers,
            kprune.binary,
        ]

    def __missing__(self, name):
        for package in self.packages:
            if hasattr(package, name):
                return getattr(package, name)
        raise KeyError(name)


def check(part, package, **unsaved):
    config = part.get_config()
    assert json.loads(json.dumps(config)) == config
    again = type(part).from_config(config, **unsaved)
    assert again.get_config() == config
    assert repr(again) == repr(part)
    if not unsaved:
        written = json.loads(json.dumps(parts.serialize(part)))
        assert parts.serialize(parts.deserialize(written)) == written
        printed = eval(repr(part), {"__builtins__": {}}, Names(package))
        assert type(printed) is type(part)
        assert printed.get_config() == config


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_registered_parts(kind, name):
    package = getattr(kprune, kind)
    cls = package.base.registry.factory(name)
    assert repr(cls()) == f"{cls.__name__}()"
    arguments = others(cls)
    part = cls(**arguments)
    assert {k: v for k, v in part.get_config().items() if k in arguments} == (
        arguments
    )
    assert all(f"{k}=" in repr(part) for k in arguments)
    check(part, package)


@pytest.mark.parametrize("name", kprune.recipes.names())
def test_recipes(name):
    recipe = kprune.recipe(name, {"macs": 0.25}, DATA, 30, allocation="uniform")
    assert recipe.get_config() == {
        "reduce": {"macs": 0.25},
        "epochs": 30,
        "recover": None,
        "allocation": "uniform",
    }
    again = kprune.recipe(name, **recipe.get_config(), data=DATA)
    assert str(again) == str(recipe)
    check(recipe, kprune.recipes, data=DATA)


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks(name):
    cls = getattr(kprune.callbacks, name)
    if name == "RegularizeCallback":
        penalty = kprune.regularizers.HierarchicalGroupSparsity(mix=0.25)
        callback = cls(penalty, until=3)
    elif name == "BinarizeCallback":
        callback = cls(kprune.binary.BinaryFilters(block=2))
    else:
        # Parts stay what they are, at any depth.
        rounds = kprune.allocation.Rounds(3, kprune.allocation.Uniform(2))
        callback = cls("l2", {"macs": 0.25}, allocation=rounds)
        assert "Rounds(rounds=3, allocation=Uniform(keep_min=2))" in repr(
            callback
        )
    check(callback, kprune.callbacks)


def test_data_of_callbacks_is_no_configuration():
    callback = kprune.callbacks.PruneCallback("taylor", data=DATA)
    assert "data" not in callback.get_config()
    assert "data=(<float64 array (8, 4)>, <float64 array (8,)>)" in repr(
        callback
    )
    check(callback, kprune.callbacks, data=DATA)


CURVES = kprune.Sensitivity(
    {"conv": Curve(4, np.arange(3), {"loss": np.array([0.1, 0.2, 0.4])})},
    {"loss": 0.1},
)


@pytest.mark.parametrize(
    "part",
    [
        kprune.criteria.Folded(kprune.criteria.Similarity("pearson", 3)),
        kprune.criteria.Staged("l1", kprune.criteria.LossIncrease(only="l2")),
        kprune.allocation.Manual({"conv": 0.5}, kprune.allocation.Global("l2")),
        kprune.allocation.GreedyLoss(criteria=["l1", kprune.criteria.FPGM()]),
        kprune.allocation.Tolerance(Copies("rank", Split("random", seed=3))),
        kprune.allocation.Latency("phone.json", "uniform", "int8"),
        kprune.callbacks.Merge(3, criterion="l2"),
    ],
    ids=lambda part: type(part).__name__,
)
def test_parts_within_parts(part):
    check(part, kprune.callbacks)


def test_what_was_measured_is_saved_and_prints_short():
    part = kprune.allocation.Tolerance(curves=CURVES)
    assert repr(part) == "Tolerance(curves=<Sensitivity of 1 groups>)"
    again = type(part).from_config(json.loads(json.dumps(part.get_config())))
    assert str(again.curves) == str(CURVES)


def test_an_array_as_argument_prints():
    data = np.zeros((8, 8, 8, 3)), np.zeros(8)
    recipe = kprune.recipe(
        "duplication",
        epochs=10,
        data=data,
        allocation=kprune.allocation.Tolerance(samples=100),
    )
    assert "allocation  Tolerance(samples=100)" in str(recipe)
    reduce = {"macs": np.float64(0.5)}
    assert "reduce={'macs': 0.5}" in repr(kprune.recipe("similarity", reduce,
        epochs=10))  # fmt: skip


def test_regularizers_keep_the_protocol_of_keras():
    penalty = kprune.regularizers.HierarchicalGroupSparsity(strength=0.25)
    config = keras.regularizers.serialize(penalty)
    again = keras.regularizers.deserialize(config)
    assert repr(again) == "HierarchicalGroupSparsity(strength=0.25)"
