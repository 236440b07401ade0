"""Donor maps, which choose a kept channel for each channel to replace."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from kprune.criteria._similarities import acting_filters
from kprune.graph.channel_graph import Group
from kprune.parts import Part
from kprune.registry import Registry


@dataclasses.dataclass(frozen=True)
class Vacancies:
    """The channels that a donor map has to fill.

    Args:
        group: The group of channels.
        scores: Scores of shape `(group.size,)`.
        kept: Indices of the possible donors, ascending.
        replaced: Indices of the channels that become copies, ascending; at most
            `kept.size * copies` of them.
        copies: Largest number of copies per donor.
    """

    group: Group
    scores: np.ndarray
    kept: np.ndarray
    replaced: np.ndarray
    copies: int

    @property
    def best_first(self) -> np.ndarray:
        """`kept` in order of score, highest first."""
        return self.kept[np.argsort(-self.scores[self.kept], kind="stable")]

    def fill(self, donors: np.ndarray) -> np.ndarray:
        """Assign donors, in the given order, to replaced channels by score."""
        order = np.argsort(-self.scores[self.replaced], kind="stable")
        filled = np.empty(self.replaced.size, dtype=int)
        filled[order] = donors
        return filled


class DonorMap(Part, abc.ABC):
    """Base class of donor maps, which choose donors for channels to replace."""

    @abc.abstractmethod
    def choose(self, vacancies: Vacancies) -> np.ndarray:
        """Return the donors of `vacancies.replaced`, in the same order."""


class FunctionDonors(DonorMap):
    """A plain function `f(vacancies) -> donors` as a donor map."""

    def __init__(self, function: Callable[[Vacancies], np.ndarray]) -> None:
        self.function = function

    def choose(self, vacancies: Vacancies) -> np.ndarray:
        return self.function(vacancies)


registry = Registry("donor map", DonorMap, FunctionDonors)
register = registry.register


def choose(identifier: Any, vacancies: Vacancies) -> np.ndarray:
    """Return the donors chosen by a donor map, after checking them.

    Args:
        identifier: `"proportional"`, `"rank"`, `"nearest"`, another registered name, a
            `DonorMap` or a function of `Vacancies`.
        vacancies: The channels to fill.

    Raises:
        ValueError: If the map chose a channel that is not a donor, or one too often.
    """
    donors = np.asarray(registry.get(identifier).choose(vacancies))
    counts = np.bincount(
        donors.astype(int).ravel(), minlength=vacancies.group.size
    )
    if (
        donors.shape != vacancies.replaced.shape
        or not np.isin(donors, vacancies.kept).all()
        or counts.max(initial=0) > vacancies.copies
    ):
        raise ValueError(
            f"Donor map {identifier!r} must return, for each of the channels "
            f"{vacancies.replaced.tolist()} of group '{vacancies.group.name}', one of "
            f"{vacancies.kept.tolist()}, each at most {vacancies.copies} times. It "
            f"returned {donors.tolist()}."
        )
    return donors.astype(int)


@register("rank")
class Rank(DonorMap):
    """Uses the kept channels from best to worst, repeatedly."""

    def choose(self, vacancies: Vacancies) -> np.ndarray:
        order = np.resize(vacancies.best_first, vacancies.replaced.size)
        return vacancies.fill(order)


@register("proportional")
class Proportional(DonorMap):
    """Copies donors in proportion to their scores, by largest remainders.

    Negative scores count as 0. If no score is above 0, all donors are equal.
    """

    def choose(self, vacancies: Vacancies) -> np.ndarray:
        donors = vacancies.best_first
        weights = np.maximum(vacancies.scores[donors], 0.0)
        if not weights.any():
            weights = np.ones(donors.size)
        quotas = vacancies.replaced.size * weights / weights.sum()
        counts = np.minimum(np.floor(quotas), vacancies.copies).astype(int)
        for _ in range(vacancies.replaced.size - counts.sum()):
            room = counts < vacancies.copies
            owed = np.where(room, quotas - counts, -np.inf)
            counts[np.argmax(owed)] += 1
        return vacancies.fill(np.repeat(donors, counts))


@register("nearest")
class Nearest(DonorMap):
    """Uses the kept channel with the most similar filter, by cosine.

    The most similar pairs come first, as long as a donor may have further copies.
    """

    def choose(self, vacancies: Vacancies) -> np.ndarray:
        cosines = cosine(vacancies.group)[
            np.ix_(vacancies.replaced, vacancies.kept)
        ]
        donors = np.full(vacancies.replaced.size, -1)
        left = np.full(vacancies.kept.size, vacancies.copies)
        for pair in np.argsort(-cosines, axis=None, kind="stable"):
            slot, donor = divmod(int(pair), vacancies.kept.size)
            if donors[slot] < 0 and left[donor]:
                donors[slot] = vacancies.kept[donor]
                left[donor] -= 1
        return donors


def cosine(group: Group) -> np.ndarray:
    """Return the cosines of filters, of shape `(size, size)`; 0 for zero filters.

    See `acting_filters`.
    """
    rows, _ = acting_filters(group)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return unit @ unit.T
