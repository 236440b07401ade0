from __future__ import annotations

import math

import models
import numpy as np
import pytest

import kprune
from kprune.arguments import choice
from kprune.arguments import did_you_mean
from kprune.arguments import number
from kprune.arguments import share
from kprune.arguments import whole
from kprune.masking import attenuation
from kprune.report.inspection import inspection


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3)])
def test_whole_numbers_come_back_as_int(value):
    found = whole(value, "Uniform", "round_to")
    assert found == 3 and type(found) is int


def test_exact_whole_numbers_are_int():
    assert whole(3, "Export", "epochs", exact=True) == 3
    with pytest.raises(ValueError, match=r"epochs=3\.0"):
        whole(3.0, "Export", "epochs", exact=True)


@pytest.mark.parametrize("value", [0, 2.5, True, "2", None, math.nan, math.inf])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(ValueError) as caught:
        whole(value, "Random", "steps", of="batches", why=", or None for all")
    assert str(caught.value) == (
        "Random needs a whole number of batches, 1 or more, as `steps`, or None "
        f"for all. Received: steps={value!r}."
    )


@pytest.mark.parametrize(
    ("limits", "good", "bad", "wanted"),
    [
        ({}, [-1, 0, 2.5], [math.inf, "1"], "a finite number as"),
        ({"least": 0}, [0, 2.5], [-1, math.inf], "a number, 0 or more, as"),
        ({"above": 0}, [0.1], [0, math.nan], "a number above 0 as"),
    ],
)
def test_numbers_within_limits(limits, good, bad, wanted):
    for value in good:
        assert number(value, "Copies", "noise", **limits) == value
    for value in bad:
        with pytest.raises(ValueError, match=f"Copies needs {wanted} `noise`"):
            number(value, "Copies", "noise", **limits)


@pytest.mark.parametrize(
    ("ends", "good", "bad", "wanted"),
    [
        ({}, [0.5], [0, 1, -0.1, True], "between 0 and 1"),
        ({"zero": True}, [0, 0.5], [1, -0.1], "from 0 to below 1"),
        ({"one": True}, [0.5, 1], [0, 1.1], "above 0, up to 1,"),
        ({"zero": True, "one": True}, [0, 1], [-0.1, "0"], "from 0 to 1"),
    ],
)
def test_shares(ends, good, bad, wanted):
    for value in good:
        assert share(value, "Merge", "threshold", **ends) == value
    for value in bad:
        with pytest.raises(ValueError, match=f"a number {wanted} as `thresh"):
            share(value, "Merge", "threshold", **ends)


def test_choices_list_what_is_known():
    assert choice("mean", "Global", "normalize", ["mean", "max"]) == "mean"
    with pytest.raises(
        ValueError, match=r"Global does not know normalize='men'.*mean 'mean'"
    ):
        choice("men", "Global", "normalize", ["mean", "max"])
    with pytest.raises(ValueError, match=r"normalize=\[\]"):
        choice([], "Global", "normalize", ["mean", "max"])


def test_hint_without_close_match_or_names():
    assert did_you_mean("zzz", ["abc"]) == "Known names: 'abc'."
    assert did_you_mean("zzz", []) == "Known names: none."


TAKE_MODELS = {
    "trace": kprune.trace,
    "wrap": kprune.wrap,
    "prune": kprune.prune,
    "rebuild": kprune.rebuild,
    "cost": kprune.cost,
    "masks": kprune.masks,
    "set_masks": lambda model: kprune.set_masks(model, {}),
    "Session": kprune.Session,
    "duplicate": kprune.duplicate,
    "sensitivity": lambda model: kprune.sensitivity(model, np.ones((2, 3))),
    "attach": lambda model: kprune.regularizers.attach(model, "l2"),
    "detach": kprune.regularizers.detach,
    "attenuation": attenuation,
    "export": lambda model: kprune.export(model, "model.tflite"),
    "inspection": inspection,
}


@pytest.mark.parametrize("name", TAKE_MODELS)
def test_what_is_no_model_is_refused_by_all(name):
    model = models.dense_layers([4], 3)
    session = kprune.Session(kprune.wrap(model))
    for value in (None, "model.keras", [1], session, model.layers[1]):
        with pytest.raises(TypeError, match=r"needs a keras.Model as `\w+`"):
            TAKE_MODELS[name](value)
    with pytest.raises(TypeError, match=r"Session.masked"):
        TAKE_MODELS[name](session)
