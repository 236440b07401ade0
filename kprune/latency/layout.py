"""Which operators a model runs on the device, and how wide each of them is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from kprune.graph import ChannelGraph


@dataclasses.dataclass(frozen=True)
class Width:
    """Length of an axis as a function of how many channels groups keep.

    Args:
        constant: Positions that are always there.
        slopes: Group name -> positions per kept channel.
    """

    constant: float
    slopes: Mapping[str, float]

    def of(self, kept: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the length for kept channels by group name, any shape."""
        terms = [slope * kept[name] for name, slope in self.slopes.items()]
        return np.rint(self.constant + sum(terms)).astype(int)


@dataclasses.dataclass(frozen=True)
class Placed:
    """An operator of a model.

    Args:
        key: What it is, but for its widths: equal keys take equal times at
            equal widths.
        reads: Width of the input of a kernel, where it varies by itself.
        writes: Width of the output, where it varies.
    """

    key: str
    reads: Width | None = None
    writes: Width | None = None

    def names(self) -> set[str]:
        """Names of the groups that its widths depend on."""
        widths = [w for w in (self.reads, self.writes) if w is not None]
        return {name for width in widths for name in width.slopes}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The operators of a model as functions of kept channels.

    Args:
        groups: Prunable group name -> size.
        operators: All operators, in the order in which they run.
    """

    groups: Mapping[str, int]
    operators: tuple[Placed, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "groups": dict(self.groups),
            "operators": [
                [op.key, _plain(op.reads), _plain(op.writes)]
                for op in self.operators
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        """Return what `to_json` made data of."""
        return cls(
            dict(data["groups"]),
            tuple(
                Placed(key, _width(reads), _width(writes))
                for key, reads, writes in data["operators"]
            ),
        )


def fingerprint(graph: ChannelGraph, dtype: str) -> str:
    """Return what tells apart models that run different operators.

    Args:
        graph: The model's channels.
        dtype: `"float32"` or `"int8"`.

    Returns:
        A short text, the same for the same model in another process.
    """
    visits = [
        (
            type(visit.operation).__name__,
            visit.operation.name,
            [list(labels.shape[1:]) for labels in visit.outputs],
        )
        for visit in graph.tracer.visits.values()
    ]
    groups = [(g.name, g.size) for g in graph.prunable]
    text = json.dumps([dtype, visits, groups], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(width: Width | None) -> list[Any] | None:
    return None if width is None else [width.constant, dict(width.slopes)]


def _width(data: Any) -> Width | None:
    return None if data is None else Width(float(data[0]), dict(data[1]))
