"""Allocation by a common tolerance of the loss."""

from __future__ import annotations

import numpy as np

from kprune.allocation.base import Request
from kprune.allocation.base import register
from kprune.allocation.base import require_finite
from kprune.arguments import whole
from kprune.duplication.allocation._measured import MeasuredAllocation
from kprune.duplication.allocation._measured import every_count
from kprune.duplication.copies import Copies
from kprune.duplication.probes import ReplacementProbe
from kprune.sensitivity import SHARES
from kprune.sensitivity import Sensitivity
from kprune.sensitivity import counts
from kprune.session import Session


@register("tolerance")
class Tolerance(MeasuredAllocation):
    """Removes channels up to a common tolerance of the loss.

    For each group separately, shares of its channels are replaced by copies of others,
    lowest scores first, and the loss is measured. The tolerance is chosen such that the
    target is met, and determines how many channels each group loses: the groups'
    structural redundancies, which are available as `redundancy` afterwards. From
    "filter duplication" (Ikuta, Yata and Manabe, IWAIT 2024, DOI 10.1117/12.3018876).
    Only its abstract is public; the measurement is kprune's own.

    It takes groups x shares passes over the samples.

    Args:
        copies: How to replace channels in the trials. With the default, the consumer
            rule `"split"`, replacing equals removing, and the curves are those of
            `kprune.sensitivity`. `"naive"` measures plain replacement, `"absorb"` how
            well other channels can compensate.
        shares: Number of shares to try, from 0 to 95 %.
        samples: Number of samples to measure the loss on, drawn at random once; None
            for all of `data`.
        keep_min: Smallest number of channels that each group keeps.
        max_share: Largest share of a group's channels to remove.
        curves: Curves of the same model, measured by `kprune.sensitivity`, to use
            instead of measuring.

    Example:

    ```python
    tolerance = kprune.duplication.Tolerance(samples=2000)
    masked = kprune.prune(
        model, reduce={"macs": 0.5}, allocation=tolerance, data=(x, y)
    )
    print(tolerance.redundancy)
    ```
    """

    def __init__(
        self,
        copies: Copies | str = "split",
        shares: int = 20,
        samples: int | None = 1000,
        keep_min: int = 2,
        max_share: float = 0.95,
        curves: Sensitivity | None = None,
    ) -> None:
        super().__init__(samples, keep_min, max_share)
        count = whole(shares, "Tolerance", "shares", 2, "shares to try")
        if not isinstance(copies, Copies):
            copies = Copies(consumers=copies)
        self.copies = copies
        self.shares = np.linspace(0, SHARES[-1], count)
        self.curves = curves
        self.needs_loss = curves is None

    def measure(
        self, request: Request, session: Session | None
    ) -> list[np.ndarray]:
        if self.curves is not None:
            return self._known(request, self.curves)
        probe = ReplacementProbe(request, session, self.copies, self.samples)
        start = require_finite(probe(request.names[0], 0))
        found = []
        for name, present in zip(
            request.names, request.alive_counts, strict=True
        ):
            counted = counts(int(present), self.shares) if present else [0]
            losses = [start if not n else probe(name, int(n)) for n in counted]
            rises = np.array(losses) - start
            rises[~np.isfinite(rises)] = np.inf
            found.append(every_count(np.asarray(counted), rises, int(present)))
        return found

    def _known(self, request: Request, curves: Sensitivity) -> list[np.ndarray]:
        missing = [n for n in request.names if n not in curves.curves]
        if missing:
            raise ValueError(
                f"`curves` has no groups {missing}: measure them on this model with "
                "kprune.sensitivity(model, data)."
            )
        found = []
        for group, present in zip(
            request.graph.prunable, request.alive_counts, strict=True
        ):
            curve = curves.curves[group.name]
            if curve.size != group.size:
                raise ValueError(
                    f"`curves` has {curve.size} channels for group '{group.name}', "
                    f"but the group has {group.size}."
                )
            require_finite(curve.values["loss"][0])
            gone = group.size - int(present)
            every = every_count(curve.removed, curve.increase(), group.size)
            found.append(every[gone:] - every[gone])
        return found

    def thresholds(self, rises: list[np.ndarray]) -> list[np.ndarray]:
        return [rise[1:] for rise in rises]
