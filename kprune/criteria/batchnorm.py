"""What batch normalization says about a channel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from kprune.criteria.base import Criterion
from kprune.criteria.base import Scores
from kprune.criteria.base import filters
from kprune.criteria.base import register

if TYPE_CHECKING:
    from kprune.graph import Group

_log = logging.getLogger("kprune")


@register("bn_scale")
class BNScale(Criterion):
    """Absolute scale `gamma` of the BatchNormalization behind a filter.

    The mean where a channel passes through several of them. Groups without one
    (a Dense head, for example) are scored by the lengths of their filters,
    rescaled so that the group's mean equals the mean scale of all groups that
    have one; a log line names them. From "Learning Efficient Convolutional
    Networks through Network Slimming" (Liu et al., arXiv 1708.06519), which
    trains with an L1 penalty on `gamma` first.

    Example:

    ```python
    masked = kprune.prune(model, criterion="bn_scale", reduce={"macs": 0.5})
    ```
    """

    def check(self, model: keras.Model | None, data: Any) -> None:
        return None

    def scores(
        self, groups: Sequence[Group], model: keras.Model | None, data: Any
    ) -> Scores:
        scores = {g.name: _scales(g).mean(axis=1) for g in groups if _gammas(g)}
        others = [g for g in groups if g.name not in scores]
        if not scores:
            raise ValueError(
                "Criterion BNScale needs a BatchNormalization layer with scale=True "
                f"behind the filters, but none of the {len(groups)} prunable groups "
                'has one. Choose another criterion, for example criterion="l2".'
            )
        typical = np.concatenate(list(scores.values())).mean()
        for group in others:
            lengths = np.linalg.norm(filters(group), axis=1)
            mean = lengths.mean()
            scores[group.name] = lengths * (typical / mean) if mean else lengths
        if others:
            _log.info(
                "bn_scale: groups without BatchNormalization are scored by the "
                "lengths of their filters instead: %s",
                ", ".join(g.name for g in others),
            )
        return scores


def _gammas(group: Group) -> list[Any]:
    return [
        member
        for member in group.members
        if member.name == "gamma"
        and isinstance(member.layer, keras.layers.BatchNormalization)
    ]


def _scales(group: Group) -> np.ndarray:
    gammas = [m.matrix().astype("float64") for m in _gammas(group)]
    return np.abs(np.concatenate(gammas, axis=1))
