"""Parts: configuration, printing, and what cannot be written down."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import keras
import numpy as np
import pytest

from kprune import parts
from kprune.parts import Part
from kprune.parts import Value
from kprune.parts import code


class Plain(Part):
    pass


class Holder(Part):
    unsaved = ("data",)

    def __init__(self, first, second=2, *, data=None, **others):
        self.first = first
        self.data = data


@dataclasses.dataclass(frozen=True, repr=False)
class Frozen(Part):
    size: int = 2


class Point(Value):
    def __init__(self, x, y=0):
        pass


def double(x):
    return 2 * x


def round_trip(part):
    written = json.loads(json.dumps(parts.serialize(part)))
    return parts.deserialize(written)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (Plain(), "Plain()"),
        (Holder(1), "Holder(first=1)"),
        (Holder(first=[1, 2.5], second=2), "Holder(first=[1, 2.5])"),
        (Holder(Frozen(3), "x"), "Holder(first=Frozen(size=3), second='x')"),
        (Holder(double, deep=None), "Holder(first=double, deep=None)"),
        (Holder({"conv1": 0.5}), "Holder(first={'conv1': 0.5})"),
        (Frozen(), "Frozen()"),
    ],
)
def test_parts_print_as_the_call_that_makes_them(part, text):
    assert repr(part) == text
    again = eval(text)
    assert parts.serialize(again) == parts.serialize(part)
    assert parts.serialize(round_trip(part)) == parts.serialize(part)


def test_arrays_print_short_and_become_lists():
    part = Holder(np.arange(6).reshape(2, 3), np.float32(0.5))
    assert repr(part) == "Holder(first=<int64 array (2, 3)>, second=0.5)"
    assert part.get_config() == {"first": [[0, 1, 2], [3, 4, 5]], "second": 0.5}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.array([0.5, 1.0]), "[0.5, 1.0]"),
        ((np.zeros((8, 8)), np.zeros(9)),
         "(<float64 array (8, 8)>, <float64 array (9,)>)"),
        ((1,), "(1,)"),
        (list(range(9)), "[0, 1, 2, 3, 4, ...]"),
        ({n: n for n in range(9)}, "{0: 0, 1: 1, 2: 2, 3: 3, 4: 4, ...}"),
        (keras.layers.Dense, "Dense"),
        (object(), "<object>"),
        (slice(1, 2), "slice(1, 2, None)"),
        ("a" * 100, repr("a" * 100)),
    ],
)  # fmt: skip
def test_values_print_short_enough_to_read(value, text):
    assert code(value) == text


def test_what_is_no_configuration_is_left_out_and_can_be_given():
    part = Holder(1, data=np.zeros((100, 2)))
    assert part.get_config() == {"first": 1, "second": 2}
    assert Holder.from_config(part.get_config(), data="new").data == "new"


def test_objects_of_keras_paths_and_functions_come_back():
    initializer = keras.initializers.Constant(0.25)
    part = round_trip(Holder(initializer, [double, Path("a/b")]))
    assert part.first.value == 0.25
    assert part.arguments["second"] == [double, "a/b"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda x: x, "Holder.first=.... cannot be written down.*with `def`"),
        (object(), "`first` holds <object> .of type object., and it has no"),
        (np.zeros(20_000), "float64 array .20000,.*too large"),
        ({1: 2}, "its keys are not strings"),
    ],
)
def test_what_cannot_be_written_down_says_why(value, message):
    with pytest.raises(TypeError, match=message):
        Holder(value).get_config()


def test_a_class_inside_a_function_cannot_be_found_again():
    class Local(Part):
        pass

    with pytest.raises(TypeError, match="top level of a module"):
        parts.serialize(Local())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere:Thing", "Import that module first"),
        ("kprune.parts:Thing", "does not have"),
        ("kprune.parts:code", "does not name a part"),
    ],
)
def test_configurations_import_no_foreign_module(path, message):
    with pytest.raises(ValueError, match=message):
        parts.deserialize({"class": path, "config": {}})


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match="argument"):
        Plain(1)
    with pytest.raises(TypeError, match="argument"):
        Plain(bogus=1)
    with pytest.raises(TypeError, match="missing"):
        Holder()


def test_copies_keep_the_arguments():
    for part in (Holder([1]), Frozen(3), Point(1)):
        for twin in (copy.copy(part), copy.deepcopy(part),
                     pickle.loads(pickle.dumps(part))):  # fmt: skip
            assert repr(twin) == repr(part)
    assert repr(dataclasses.replace(Frozen(3), size=4)) == "Frozen(size=4)"


def test_values_are_equal_by_their_arguments():
    assert Point(1) == Point(1, 0) != Point(1, 1)
    assert len({Point(1), Point(1, 0), Point(2)}) == 2
    assert Point(1) != Plain()
