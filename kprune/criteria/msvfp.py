"""Two criteria, used one after the other while pruning progresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

from kprune import arguments
from kprune.criteria.base import Criterion
from kprune.criteria.base import Scores
from kprune.criteria.base import get
from kprune.criteria.base import register

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session


@register("msvfp")
class Staged(Criterion):
    """One criterion for the first part of the target, another for the rest.

    By default, the first half uses the norms of filters, and the second half the
    sums of Euclidean distances to the other alive filters, as in "Magnitude and
    Similarity Based Variable Rate Filter Pruning" (Ghimire and Kim,
    doi 10.3390/app13010316). The criterion is chosen whenever filters are scored,
    so one-shot pruning uses only the first one: prune in rounds, or with
    `allocation="greedy_loss"`.

    Args:
        before: Criterion for the first part.
        after: Criterion for the rest.
        share: Share of the target, between 0 and 1, at which `after` takes over.

    Example:

    ```python
    masked = kprune.prune(
        model, criterion="msvfp", allocation="greedy_loss", data=(x, y)
    )
    ```
    """

    def __init__(
        self, before: Any = "l2", after: Any = "fpgm", share: float = 0.5
    ) -> None:
        self.before = get(before)
        self.after = get(after)
        self.share = arguments.share(share, "Staged", "share")

    @property
    def decides_by(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.before.decides_by + self.after.decides_by

    def at(self, progress: float) -> Criterion:
        now = self.before if progress < self.share else self.after
        return now.at(progress)

    def check(self, session: Session | None) -> None:
        self.before.check(session)
        self.after.check(session)

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        return self.before.scores(groups, session)
