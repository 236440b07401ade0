"""Soft filter pruning: attenuation with a factor of 0."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kprune import factors
from kprune.callbacks.attenuate import AttenuateCallback


class SoftPruneCallback(AttenuateCallback):
    """Sets weak filters to 0 but continues to train them, until the end.

    At the beginning of each round, all filters are scored again, and those that the
    allocation would remove are set to 0. All continue to train, so a filter can
    return. At the last round of the schedule, by default after two thirds of the
    epochs, the weakest filters are removed, and fine-tuning follows. This is
    `AttenuateCallback` with a factor of 0; see there for `logs`.

    If a BatchNormalization follows, only its scale `gamma` is set to 0, of the last one
    where several follow; its offset and the kernel stay. If it has no scale, the
    weights that read the filter's channel are set to 0; see `AttenuateCallback`. The
    paper sets kernels to 0, which suits training from scratch. In a trained model, the
    batch statistics would amplify the first update of such a kernel, so that filters
    would return because of that gain, not because they matter.

    A filter returns only if a gradient reaches it. If a ReLU follows, that requires an
    offset `beta` above 0. Filters with a negative offset do not return, nor do those of
    a freshly initialised model, whose offsets are 0, nor those without
    BatchNormalization. So prune a trained model, or make the schedule begin after some
    epochs.

    Args:
        criterion: See `kprune.prune`. Defaults to the L2 norm of the filters that
            remains with this target: `"l2"` with `target="kernel"`, else
            `kprune.criteria.Folded("l2")`.
        reduce: See `kprune.prune`. It may be `{"latency": 0.5}`.
        schedule: `"constant"`: the whole target in every round (SFP).
            `"asymptotic"`: less in early rounds (ASFP). For others see
            `AttenuateCallback`.
        allocation: See `kprune.prune`.
        data: See `kprune.prune`.
        target: `"scale"`; `"kernel"` as in the paper, for training from scratch; or
            `"bn"`, with which no filter returns if a ReLU follows. See
            `AttenuateCallback`.
        scale_slots: Whether to set the optimizer's slots of the filters to 0 too.
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
