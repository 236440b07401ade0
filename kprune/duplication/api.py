"""duplicate(): unimportant filters become copies of critical ones."""

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
from kprune.pruning import Policy
from kprune.pruning import as_masked
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.copies import assign
from kprune.rebuild.copies import merge
from kprune.session import Session

logger = logging.getLogger("kprune")


def duplicate(
    model: keras.Model,
    criterion: Any = "l1",
    reduce: Mapping[str, float] | None = None,
    allocation: Any = "tolerance",
    data: Any = None,
    copies: Copies | None = None,
    skip: Iterable[Any] | None = None,
) -> keras.Model:
    """Replace unimportant filters by copies of critical ones, before pruning.

    Filter duplication (Ikuta, Yata and Manabe, IWAIT 2024, DOI
    10.1117/12.3018876): the filters that matter least are overwritten by the
    ones that matter most, biases, normalisation and all. `kprune.rebuild` then
    merges each filter with its copies. With the default `copies` the outputs
    are, before and after, those of removing the same filters; what differs is
    how a tolerance allocation chooses how many, and training in between.

    Where copies are not exact (layer normalisation across the channels, a
    softmax over them), filters are removed instead; a log line says so.

    Args:
        model: A plain model, which stays as it is, or one that `kprune.wrap`
            made, which is changed in place.
        criterion: See `kprune.prune`.
        reduce: Share of each cost that the rebuilt model is to lose, counted
            against the whole model: `{"macs": 0.5}` by default.
        allocation: How many filters of each group are replaced:
            `"tolerance"` (by the loss that removing them costs, needs a
            compiled model and `data`), `"importance"`, or any other of
            `kprune.prune`.
        data: Samples `(x, y)` for allocations, criteria and consumer rules
            that run the model. See `kprune.prune`.
        copies: How filters are copied.
        skip: See `kprune.prune`.

    Returns:
        The masked model, of the same size as before: the saving comes with
        `kprune.rebuild`.

    Raises:
        ValueError: No filter can be removed, the target is out of reach, or
            the criterion or allocation lacks data or a loss.

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
    with session.rollback():
        alive = session.settle()
        scores = policy.score(alive)
        masks = policy.allocate(scores, alive=alive)
        replace(session, masks, scores, alive, copies)
    return masked


def replace(
    session: Session,
    masks: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    alive: Mapping[str, np.ndarray],
    copies: Copies | None = None,
) -> dict[str, CopyMap]:
    """Replace chosen channels by copies; remove those that cannot be copies.

    Args:
        session: The masked model and its samples.
        masks: By group name 0/1 vectors, 0 for the channels to replace.
        scores: By group name `(size,)` scores, larger = keep.
        alive: By group name booleans: channels that are not gone yet.
        copies: How filters are copied.

    Returns:
        By group name which channels are copies of which.
    """
    copies = copies or Copies()
    masked, graph = session.masked, session.graph
    outcome = plan_copies(graph, masks, scores, alive, copies)
    only_exact(masked, graph, masks, outcome)
    make_copies(masked, graph, outcome.maps, copies, session.source)
    if outcome.masks:
        session.remove(outcome.masks)
    count = sum(int(m.replaced.sum()) for m in outcome.maps.values())
    logger.info(
        "%d filters in %d groups are copies now", count, len(outcome.maps)
    )
    for name, why in outcome.reasons.items():
        logger.info("group '%s' is pruned without copies: %s", name, why)
    return outcome.maps


def merge_copies(
    session: Session, maps: dict[str, CopyMap]
) -> dict[str, np.ndarray]:
    """Let donors be read as they and their copies were, and return masks.

    Exact where copies are equal; where they are not, a donor gets the mean of
    its set.

    Args:
        session: The masked model.
        maps: By group name which channels are copies of which.

    Returns:
        By group name a vector `(size,)`, 0 for copies and for what is gone:
        the masks with which `session.remove` completes the merging.
    """
    assign(session.masked, session.graph, maps, merge(maps))
    return {
        name: (alive & ~maps[name].replaced).astype("float32")
        for name, alive in session.alive().items()
        if name in maps
    }
