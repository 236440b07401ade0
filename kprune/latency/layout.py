"""The operators that a model runs on the device, and their widths."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune.graph import ChannelGraph
from kprune.graph.call import Visit
from kprune.graph.registry import configuration

VERSION = 2
"""Version of the fingerprints. Those of version 1 ignore settings of layers."""

_UNTIMED = ("name", "trainable", "seed", "momentum", "build_config")
_UNTIMED_ENDS = ("_initializer", "_regularizer", "_constraint", "_momentum")
"""Entries of a configuration that no operator of a converted model depends on."""


@dataclasses.dataclass(frozen=True)
class Width:
    """Length of an axis as a function of the channels that groups keep.

    Args:
        constant: Length without any kept channels.
        slopes: Number of a prunable group -> length per kept channel.
    """

    constant: float
    slopes: Mapping[int, float]

    def of(self, kept: np.ndarray) -> np.ndarray:
        """Return the length for kept channels `(..., groups)`."""
        terms = [slope * kept[..., n] for n, slope in self.slopes.items()]
        return np.rint(self.constant + sum(terms)).astype(int)


@dataclasses.dataclass(frozen=True)
class Placed:
    """An operator of a model.

    Args:
        key: The operator as text, without its widths. Operators with equal keys
            take equal times at equal widths.
        reads: Width of the input of a kernel, if it varies independently.
        writes: Width of the output, if it varies.
    """

    key: str
    reads: Width | None = None
    writes: Width | None = None

    def groups(self) -> set[int]:
        """Return the numbers of the groups that its widths depend on."""
        widths = [w for w in (self.reads, self.writes) if w is not None]
        return {number for width in widths for number in width.slopes}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The operators of a model as functions of kept channels.

    Groups are identified by their index in `graph.prunable`, because the names that
    Keras gives differ between processes.

    Args:
        operators: All operators, in the order in which they run.
    """

    operators: tuple[Placed, ...]

    def to_json(self) -> list[Any]:
        """Return the layout as plain data."""
        return [
            [op.key, _plain(op.reads), _plain(op.writes)]
            for op in self.operators
        ]

    @classmethod
    def from_json(cls, data: list[Any]) -> Layout:
        """Return the layout that `to_json` made data of."""
        return cls(
            tuple(
                Placed(key, _width(reads), _width(writes))
                for key, reads, writes in data
            )
        )


def fingerprint(graph: ChannelGraph, dtype: str, version: int = VERSION) -> str:
    """Return a fingerprint that differs between models with different operators.

    Args:
        graph: The model's channels.
        dtype: `"float32"` or `"int8"`.
        version: Version of the fingerprint.

    Returns:
        16 hexadecimal digits, the same for the same model in another process.
    """
    visits = [
        (
            type(visit.operation).__name__,
            [list(labels.shape[1:]) for labels in visit.outputs],
            *(_settings(visit) if version > 1 else ()),
        )
        for visit in graph.visits.values()
    ]
    variables = sorted(
        (number, member.role, list(member.variable.shape))
        for number, group in enumerate(graph.prunable)
        for member in group.members
    )
    what = [dtype, visits, variables]
    text = json.dumps([version, *what] if version > 1 else what, default=_word)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _settings(visit: Visit) -> list[Any]:
    """Return what an operation was constructed and called with, as plain data."""
    operation = visit.operation
    config = dict(configuration(operation))
    if isinstance(operation, keras.layers.Lambda):
        # Keras' own form of a function's code differs between processes.
        code = getattr(operation.function, "__code__", None)
        config["function"] = code and [code.co_code.hex(), code.co_names]
    return [_timed(config), _timed([visit.args, visit.kwargs])]


def _timed(value: Any) -> Any:
    """Return plain data without the parts that an operator's time ignores."""
    if isinstance(value, Mapping):
        return {
            k: _timed(v)
            for k, v in sorted(value.items())
            if not _is_untimed(k, v)
        }
    if isinstance(value, list | tuple):
        return [_timed(v) for v in value]
    return value


def _is_untimed(name: str, value: Any) -> bool:
    # Later versions of Keras add arguments, which are mostly off by default.
    if value is None or value is False:
        return True
    if name == "dtype" and isinstance(value, Mapping):
        return True  # A layer's policy: the converter decides.
    return name in _UNTIMED or name.endswith(_UNTIMED_ENDS)


def _word(value: Any) -> str:
    """Return a word for a value that is no plain data, without its address."""
    plain = isinstance(value, slice | np.generic)
    return repr(value) if plain else type(value).__name__


def _plain(width: Width | None) -> list[Any] | None:
    if width is None:
        return None
    return [width.constant, [[n, s] for n, s in width.slopes.items()]]


def _width(data: Any) -> Width | None:
    if data is None:
        return None
    constant, slopes = data
    return Width(float(constant), {int(n): float(s) for n, s in slopes})
