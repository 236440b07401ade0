"""Network Adjustment: widths by FLOPs utilisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune import allocation as allocations
from kprune.allocation import Request
from kprune.data.needs import require_loss
from kprune.duplication import FUR
from kprune.duplication import Split
from kprune.duplication import grow
from kprune.recipes._page import tuning
from kprune.recipes.base import Recipe
from kprune.recipes.base import register
from kprune.recovery import base as recoveries
from kprune.session import Session


@register("network-adjustment")
class NetworkAdjustment(Recipe):
    """Widen layers that use their MACs well and shrink others before training.

    The model must be compiled with a loss before `prepare`, which always returns a
    new masked model, even for a masked one, because layers get wider.

    Args:
        reduce: See `kprune.recipe`. By default the model keeps its MACs.
        data: Samples `(x, y)`, preferably ones that the model was not trained on;
            the loss is measured on 1,000 of them.
        epochs: See `kprune.recipe`. All of them fine-tune.
        recover: See `kprune.recipe`.
        **parts: `criterion`, which chooses the filters to remove and to copy;
            `allocation`, a `kprune.duplication.FUR`, or another one, which only
            shrinks layers; `split`, a `kprune.duplication.Split`, which divides
            the weights that read a filter between it and its copies.
    """

    summary = (
        "Channels worth the same MACs are dropped in one layer after another. Layers "
        "where the loss rises most are widened with copies of their filters, those "
        "where it rises least lose filters, and the MACs stay the same or meet the "
        "target."
    )
    citation = (
        'Z. Chen, J. Niu, L. Xie, X. Liu, L. Wei and Q. Tian, "Network Adjustment: '
        'Channel Search Guided by FLOPs Utilization Ratio", CVPR 2020'
    )
    url = "https://arxiv.org/abs/2004.02767"
    when = (
        "You want other widths at the same MACs, and can train for long; in ten short "
        "epochs it lost 3 points."
    )
    default_reduce: Mapping[str, float] = {}
    untargeted = "Keeps the MACs"

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": "l1",
            "allocation": FUR(),
            "split": Split("random"),
        }

    def prepare(self, model: keras.Model) -> keras.Model:
        masked = super().prepare(model)
        session = Session(masked, self.data)
        require_loss(session, f"Recipe '{self.name}'")
        allocation = allocations.get(self.parts["allocation"])
        scores = session.score(self.parts["criterion"])
        wanted = self._widths(allocation, session, scores)
        wide = grow(masked, wanted, scores, self.parts["split"])
        session = Session(wide, self.data)
        scores = session.score(self.parts["criterion"])
        before = session.snapshot()
        session.remove(
            {name: _best(scores[name], width) for name, width in wanted.items()}
        )
        if self.recover is not None:
            recoveries.repair(session, before, self.recover)
        return wide

    def _widths(
        self,
        allocation: allocations.Allocation,
        session: Session,
        scores: dict[str, np.ndarray],
    ) -> dict[str, int]:
        """Return the number of channels that each prunable group will have."""
        costs = allocation.costs(session)
        grows = isinstance(allocation, FUR)
        reduce: Any = {"macs": 0.0}
        if self.reduce or not grows:
            reduce = allocations.targets(self.reduce, allocation, costs)
        request = Request(session.graph, costs, reduce, scores, session.alive())
        if isinstance(allocation, FUR):
            widths = allocation.widths(request, session)
            return dict(zip(request.names, widths.tolist(), strict=True))
        kept = allocations.solve(allocation, request, session)
        return {name: int(mask.sum()) for name, mask in kept.items()}

    def actions(self) -> list[keras.callbacks.Callback]:
        return []

    def phases(self) -> list[tuple[str, str]]:
        return [
            ("in prepare", "layers are widened with copies, or lose filters"),
            *tuning(0, self.epochs),
        ]


def _best(scores: np.ndarray, width: int) -> np.ndarray:
    """Return a mask of the `width` channels with the highest scores."""
    mask = np.zeros(scores.size, dtype="float32")
    mask[np.argsort(-scores, kind="stable")[:width]] = 1
    return mask
