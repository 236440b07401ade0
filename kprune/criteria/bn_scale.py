"""Scales of batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from kprune.criteria.base import Criterion
from kprune.criteria.base import Scores
from kprune.criteria.base import by_length_elsewhere
from kprune.criteria.base import describe
from kprune.criteria.base import register
from kprune.graph.registry import batch_norm_of

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session


@register("bn_scale")
class BNScale(Criterion):
    """Absolute scale `gamma` of the BatchNormalization after a filter.

    If a channel passes several of them, their mean is used. Groups without one
    (such as Dense layers) are scored by the norms of their filters, rescaled so
    that the group's mean equals the mean scale of all other groups; a log line
    names them. From "Learning Efficient Convolutional Networks through Network
    Slimming" (Liu et al., arXiv 1708.06519), which first trains with an L1 penalty
    on `gamma`.

    Example:

    ```python
    masked = kprune.prune(model, criterion="bn_scale", reduce={"macs": 0.5})
    ```
    """

    decides_by = ("weights",)

    def check(self, session: Session | None) -> None:
        return None

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        scores = {g.name: _scales(g).mean(axis=1) for g in groups if _gammas(g)}
        return by_length_elsewhere(
            scores, groups, describe(self), "no BatchNormalization with a scale"
        )


def _gammas(group: Group) -> list[Any]:
    return [
        member
        for member in group.members
        if member.name == "gamma" and batch_norm_of(member.layer)
    ]


def _scales(group: Group) -> np.ndarray:
    gammas = [m.matrix().astype("float64") for m in _gammas(group)]
    return np.abs(np.concatenate(gammas, axis=1))
