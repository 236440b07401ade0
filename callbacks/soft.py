"""Soft filter pruning: attenuation with a factor of 0."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kprune import factors
from kprune.callbacks.attenuate import AttenuateCallback


class SoftPruneCallback(AttenuateCallback):
    """Sets weak filters to 0 and lets them train on, until the end.

    At the beginning of each round all filters are scored afresh and those that
    the allocation would remove are set to 0. All go on training, so a filter
    can return. At the last round of the schedule, by default after two thirds
    of the epochs, the weakest are removed, and fine-tuning follows. See
    `AttenuateCallback`, of which this is the case of factor 0, for `logs`.

    Where a BatchNormalization follows, only its scale `gamma` is set to 0; its
    offset and the kernel stay. The paper sets kernels to 0, which suits training
    from scratch. In a trained model the batch statistics would blow up what the
    next step leaves of such a kernel, so that filters return by that gain
    instead of their worth.

    A filter returns only if a gradient reaches it. Behind a ReLU that takes an
    offset `beta` above 0: filters with one below 0 stay where they are, and so
    do those of a freshly initialized model, whose offsets are 0, and those
    without BatchNormalization. So prune a trained model, or let the schedule
    begin after some epochs.

    Args:
        criterion: See `kprune.prune`. Defaults to the L2 norm of the filters as
            the target leaves them: `"l2"` with `target="kernel"`, else
            `kprune.criteria.Folded("l2")`.
        reduce: See `kprune.prune`. It may be `{"latency": 0.5}`.
        schedule: `"constant"`: the whole target in every round (SFP).
            `"asymptotic"`: little first (ASFP). Or see `AttenuateCallback`.
        allocation: See `kprune.prune`.
        data: See `kprune.prune`.
        target: `"scale"`; `"kernel"` as in the paper, for training from
            scratch; or `"bn"`, from which no filter returns behind a ReLU. See
            `AttenuateCallback`.
        scale_slots: Also set to 0 what the optimizer remembers of the weights.
        recover: See `AttenuateCallback`.
        run_dir: See `PruningCallback`.

    Raises:
        ValueError: See `AttenuateCallback`.

    Example:

    ```python
    masked.fit(train, epochs=30, callbacks=[
        SoftPruneCallback(reduce={"macs": 0.4}, allocation="uniform")
    ])
    ```

    From "Soft Filter Pruning for Accelerating Deep Convolutional Neural
    Networks" (He et al., arXiv 1808.06866).
    """

    _norm = "l2"

    def __init__(  # noqa: PLR0913  each is a choice of its own
        self,
        criterion: Any = None,
        reduce: Mapping[str, float] | None = None,
        schedule: Any = "constant",
        allocation: Any = "global",
        data: Any = None,
        target: str = "scale",
        scale_slots: bool = False,
        recover: Any = None,
        run_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        factor = factors.Constant(0.0, scale_slots=scale_slots)
        super().__init__(
            criterion,
            reduce,
            schedule,
            allocation,
            data,
            factor,
            target,
            recover,
            run_dir,
        )
