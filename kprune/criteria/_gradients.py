"""Base classes and helpers of criteria based on gradients of the compiled loss."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from kprune.arguments import count_or_all
from kprune.criteria.base import LossCriterion
from kprune.criteria.base import Scores
from kprune.criteria.base import describe
from kprune.data.arrays import count
from kprune.data.arrays import cut
from kprune.graph.call import FILTER
from kprune.graph.call import INPUT
from kprune.graph.call import SCALE
from kprune.graph.values import read

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session

Arrays = dict[int, np.ndarray]

LEARNED = (FILTER, SCALE, INPUT)


class GradientCriterion(LossCriterion):
    """Base class of criteria that use gradients of whole batches.

    Args:
        steps: Number of batches to use; `None` for all.
    """

    decides_by = ("gradients",)

    def __init__(self, steps: int | None = None) -> None:
        self.steps = count_or_all(
            steps, type(self).__name__, "steps", "batches"
        )

    def gradients(self, session: Session) -> Iterator[Arrays]:
        """Yield the gradients of each batch, by `id(variable)`."""
        owner = f"Criterion {describe(self)}"
        for batch in session.samples.labelled(owner, self.steps):
            yield session.gradients(*batch)


class SampleGradientCriterion(LossCriterion):
    """Base class of criteria that use gradients of single samples.

    Args:
        samples: Number of samples to draw; `None` for all of `data`.
        seed: Seed of the draw.
    """

    decides_by = ("gradients",)

    def __init__(self, samples: int | None = 256, seed: int = 0) -> None:
        self.samples = count_or_all(
            samples, type(self).__name__, "samples", "samples"
        )
        self.seed = seed

    def gradients(self, session: Session) -> Iterator[Arrays]:
        """Yield the gradients of each sample, by `id(variable)`."""
        source = session.samples
        if self.samples is not None:
            source = source.sample(self.samples, self.seed)
        for batch in source.labelled(f"Criterion {describe(self)}"):
            for n in range(count(batch[0])):
                yield session.gradients(*cut(batch, n, n + 1))


def weights(groups: Sequence[Group]) -> Arrays:
    """Return the weights of the groups' channels as float64, by `id(variable)`."""
    found = {
        id(member.variable): member.variable
        for group in groups
        for member in group.members
        if member.role in LEARNED
    }
    return {key: read(v).astype("float64") for key, v in found.items()}


def products(first: Mapping[int, Any], second: Mapping[int, Any]) -> Arrays:
    """Multiply the arrays of keys that both have."""
    return {k: first[k] * second[k] for k in first if k in second}


def by_channel(
    groups: Sequence[Group],
    values: Mapping[int, Any],
    roles: Collection[str] = LEARNED,
) -> Scores:
    """Sum arrays over the entries that belong to each channel.

    Args:
        groups: Groups of channels.
        values: `id(variable)` -> array of the variable's shape. Variables left
            out count as 0.
        roles: Roles of the members to include. Defaults to all except running
            statistics.

    Returns:
        Group name -> sums of shape `(group.size,)`.
    """
    sums = {}
    for group in groups:
        total = np.zeros(group.size)
        for member in group.members:
            array = values.get(id(member.variable))
            if member.role not in roles or array is None:
                continue
            others = tuple(a for a in range(array.ndim) if a != member.axis)
            along = array.sum(axis=others)
            total += along[member.index].sum(axis=1)
        sums[group.name] = total
    return sums


def mean(arrays: Iterable[Arrays]) -> Arrays:
    """Return the means of arrays by key."""
    total: Arrays = {}
    number = 0
    for each in arrays:
        number += 1
        for key, array in each.items():
            total[key] = total.get(key, 0.0) + array.astype("float64")
    return {key: array / number for key, array in total.items()}
