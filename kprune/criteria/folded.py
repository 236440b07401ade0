"""Scores of filters with folded BatchNormalization."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from kprune.criteria.base import Criterion
from kprune.criteria.base import GroupCriterion
from kprune.criteria.base import Scores
from kprune.criteria.base import get
from kprune.criteria.base import register
from kprune.graph.channel_graph import Group
from kprune.graph.channel_graph import Member
from kprune.graph.norms import Path
from kprune.graph.norms import norm_paths
from kprune.graph.registry import batch_norm_of

if TYPE_CHECKING:
    from kprune.session import Session


@register("folded")
class Folded(Criterion):
    """Scores filters after folding the following BatchNormalization into them.

    Each filter is multiplied by `gamma / sqrt(moving_variance + epsilon)`, with
    `gamma` 1 if there is no scale, before `criterion` scores it, so that scores
    reflect its outputs in inference. If a channel has several paths to its readers,
    the mean factor is used, with 1 for paths without BatchNormalization.

    Args:
        criterion: A criterion that needs only a group's weights: `"l1"`, `"l2"`,
            `"fpgm"`, `"similarity"`, or a function `f(group)`.

    Raises:
        TypeError: If the criterion needs more than weights.

    Example:

    ```python
    masked = kprune.prune(model, criterion=kprune.criteria.Folded("l1"))
    ```
    """

    decides_by = ("weights",)

    def __init__(self, criterion: Any = "l1") -> None:
        inner = get(criterion)
        if not isinstance(inner, GroupCriterion):
            raise TypeError(
                "Folded needs a criterion that uses only the weights of one group, "
                'such as "l1", "l2", "fpgm" or "similarity". Received: '
                f"{criterion!r} ({type(inner).__name__})."
            )
        self.criterion = inner

    def check(self, session: Session | None) -> None:
        return None

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        if not groups:
            return {}
        paths = norm_paths(groups[0].graph)
        return {g.name: self.criterion.score(fold(g, paths)) for g in groups}


def fold(group: Group, paths: dict[int, Path]) -> Group:
    """Return a view of a group with folded filters; weights are not changed.

    Args:
        group: A group of channels.
        paths: `norm_paths` of its graph.
    """
    scales = _scales(group)
    members = []
    for member in group.producers:
        path = paths[id(member.layer)]
        ways = [scales[id(n)] for n in path.norms if id(n) in scales]
        if path.bare or not ways:
            ways.append(np.ones(group.size))
        fields = {f.name: getattr(member, f.name) for f in _FIELDS}
        members.append(_Folded(**fields, scale=np.mean(ways, axis=0)))
    others = [m for m in group.members if m.role != "filter"]
    return _View(group, (*members, *others))


_FIELDS = dataclasses.fields(Member)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _Folded(Member):
    scale: np.ndarray

    def matrix(self) -> np.ndarray:
        return super().matrix() * self.scale[:, None]


class _View(Group):
    """A group with replaced members."""

    def __init__(self, group: Group, members: tuple[Member, ...]) -> None:
        super().__init__(group.name, group.classes, group.pinned, group.graph)
        # Takes the place of the cached property.
        self.members = members


def _scales(group: Group) -> dict[int, np.ndarray]:
    """Return the factors of each batch normalisation by `id(layer)`."""
    parts: dict[int, dict[str, np.ndarray]] = {}
    layers: dict[int, Any] = {}
    for member in group.members:
        norm = batch_norm_of(member.layer)
        if norm is not None:
            values = member.matrix().astype("float64").mean(axis=1)
            parts.setdefault(id(member.layer), {})[member.name] = values
            layers[id(member.layer)] = norm
    return {
        key: p.get("gamma", 1.0)
        / np.sqrt(p["moving_variance"] + layers[key].epsilon)
        for key, p in parts.items()
        if "moving_variance" in p
    }
