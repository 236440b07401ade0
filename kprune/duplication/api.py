"""duplicate(): replace unimportant filters by copies of important ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune.duplication.copies import Copies
from kprune.duplication.copies import make_copies
from kprune.duplication.copies import only_exact
from kprune.duplication.copies import plan_copies
from kprune.duplication.repair import repair_copies
from kprune.pruning import Policy
from kprune.pruning import as_masked
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.copies import assign
from kprune.rebuild.copies import merge
from kprune.recovery import base as recoveries
from kprune.session import Session

logger = logging.getLogger("kprune")


def duplicate(  # noqa: PLR0913  each argument is independent
    model: keras.Model,
    criterion: Any = "l1",
    reduce: Mapping[str, float] | None = None,
    allocation: Any = "tolerance",
    data: Any = None,
    copies: Copies | None = None,
    skip: Iterable[Any] | None = None,
    recover: Any = None,
) -> keras.Model:
    """Replace unimportant filters by copies of important ones, before pruning.

    Filter duplication (Ikuta, Yata and Manabe, IWAIT 2024, DOI 10.1117/12.3018876):
    the least important filters are overwritten by the most important ones, together
    with their biases and normalisation. `kprune.rebuild` then merges each filter with
    its copies. With the default `copies`, the outputs equal those after removing the
    same filters, before and after the rebuild. The differences are how a tolerance
    allocation chooses the number of filters, and the training in between.

    If copies are not exact (because of layer normalisation across the channels, or a
    softmax over them), filters are removed instead; a log line says so.

    Args:
        model: A plain model, which is not changed, or one made by `kprune.wrap`, which
            is changed in place.
        criterion: See `kprune.prune`.
        reduce: Share of each cost that the rebuilt model saves, relative to the
            unpruned model. Defaults to `{"macs": 0.5}`.
        allocation: How many filters of each group to replace: `"tolerance"` (by the
            increase of the loss, needs a compiled model and `data`), `"importance"`,
            or any other of `kprune.prune`.
        data: Samples `(x, y)` for allocations, criteria and consumer rules that run the
            model. See `kprune.prune`.
        copies: How to copy filters.
        skip: See `kprune.prune`.
        recover: How to repair the kept layers: copies and donors change together. See
            `kprune.prune`. Defaults to no repair.

    Returns:
        The masked model, of the same size as before; `kprune.rebuild` makes it smaller.

    Raises:
        ValueError: If no filter can be removed, the target is out of reach, or the
            criterion or allocation lacks data or a loss.

    Example:

    ```python
    masked = kprune.duplicate(
        model, reduce={"macs": 0.5}, data=(x_train[:1000], y_train[:1000])
    )
    compact = kprune.rebuild(masked)
    ```
    """
    masked = as_masked(model, skip)
    session = Session(masked, data)
    policy = Policy(session, criterion, reduce, allocation)
    policy.check()
    recover = [] if recover is None else recover
    recoveries.check(recover, session)
    copies = copies or Copies()
    with session.rollback():
        alive = session.settle()
        before = session.snapshot()
        scores = policy.score(alive)
        masks = policy.allocate(scores, alive=alive)
        maps = replace(session, masks, scores, alive, copies)
        repair_copies(session, before, maps, copies, recover)
    return masked


def replace(
    session: Session,
    masks: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    alive: Mapping[str, np.ndarray],
    copies: Copies | None = None,
) -> dict[str, CopyMap]:
    """Replace chosen channels by copies, or remove those that cannot be copies.

    Args:
        session: The masked model and its samples.
        masks: Group name -> vector of 0 and 1, 0 for the channels to replace.
        scores: Group name -> scores of shape `(size,)`.
        alive: Group name -> booleans of shape `(size,)`: alive channels.
        copies: How to copy filters.

    Returns:
        Group name -> which channels are copies of which.
    """
    copies = copies or Copies()
    masked, graph = session.masked, session.graph
    plan = plan_copies(graph, masks, scores, alive, copies)
    only_exact(masked, graph, masks, plan)
    make_copies(
        masked, graph, plan.maps, copies, session.source, session.optimizer
    )
    if plan.masks:
        session.remove(plan.masks)
    count = sum(int(m.replaced.sum()) for m in plan.maps.values())
    logger.info("%d filters in %d groups are now copies", count, len(plan.maps))
    for name, why in plan.reasons.items():
        logger.info("group '%s' is pruned without copies: %s", name, why)
    return plan.maps


def merge_copies(
    session: Session, maps: dict[str, CopyMap]
) -> dict[str, np.ndarray]:
    """Merge copies into their donors, and return the masks that remove the copies.

    This is exact if copies are equal; otherwise a donor gets the mean of its set.

    Args:
        session: The masked model.
        maps: Group name -> which channels are copies of which.

    Returns:
        Group name -> mask of shape `(size,)`, 0 for copies and removed channels. Pass
        them to `session.remove` to complete the merge.
    """
    edit = merge(maps)
    assign(
        session.masked, session.graph, maps, edit, optimizer=session.optimizer
    )
    return {
        name: (alive & ~maps[name].replaced).astype("float32")
        for name, alive in session.alive().items()
        if name in maps
    }
