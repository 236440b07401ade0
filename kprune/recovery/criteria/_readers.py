"""The base class of criteria based on the inputs of linear layers."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kprune.arguments import whole
from kprune.criteria.base import Criterion
from kprune.criteria.base import Scores
from kprune.criteria.base import by_length_elsewhere
from kprune.criteria.base import describe
from kprune.criteria.base import required
from kprune.data.needs import require_data
from kprune.recovery._elimination import ROWS
from kprune.recovery._elimination import Reader
from kprune.recovery._elimination import members_read
from kprune.recovery._elimination import observe

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.graph import Member
    from kprune.session import Session


class ReaderCriterion(Criterion):
    """Base class of criteria that use input statistics of a group's readers.

    Args:
        samples: Largest number of samples to use.
        rows: Largest number of rows (samples times output positions) per layer.
    """

    decides_by = ("activations",)

    def __init__(self, samples: int = 1024, rows: int = ROWS) -> None:
        owner = type(self).__name__
        self.samples = whole(samples, owner, "samples", of="samples")
        self.rows = whole(rows, owner, "rows", of="rows")

    @abc.abstractmethod
    def errors(
        self, group: Group, readers: list[tuple[Member, Reader]]
    ) -> np.ndarray:
        """Return the scores of a group, of shape `(group.size,)`.

        Args:
            group: A group that some linear layer reads.
            readers: Pairs of a member through which the group is read, and the
                statistics of its layer.
        """

    def check(self, session: Session | None) -> None:
        require_data(session, f"Criterion {describe(self)}")

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        session = required(session, self)
        readers = observe(session, groups, self.samples, self.rows)
        found = {}
        for group in groups:
            mine = members_read(group, readers)
            if mine:
                found[group.name] = self.errors(group, mine)
        return by_length_elsewhere(
            found, groups, describe(self), "no dense or convolutional reader"
        )
