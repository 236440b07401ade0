"""Losses of many trials of masks on the same samples."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from kprune.masking.wrapping import check_vector
from kprune.session.loss import LossProbe
from kprune.session.loss import Prepared

if TYPE_CHECKING:
    from kprune.session.session import Session

Masks = dict[str, np.ndarray]
"""Group name -> mask."""


def trial_losses(
    session: Session,
    probe: LossProbe,
    trials: Sequence[Mapping[str, Any]],
    batches: Prepared,
) -> list[float]:
    """Return the mean loss of each trial. See `Session.losses`.

    All trials run on one batch, in the order of their first changed layer,
    before the next batch. So only the tensors of one batch are in memory.

    Args:
        session: The masked model.
        probe: The probe that measures the loss.
        trials: Masks by group name, for each trial.
        batches: The samples. See `LossProbe.draw`.
    """
    vectors = [
        {n: check_vector(session.graph, n, v) for n, v in masks.items()}
        for masks in trials
    ]
    base, changes = _split(vectors)
    starts = [
        session.segments.first(
            layer for name in masks for layer in session.layers(name)
        )
        for masks in changes
    ]
    totals = np.zeros(len(trials))
    with session.trial(base) if base else contextlib.nullcontext():
        for size, (x, y, weight) in batches:
            run = session.segments.start(x)
            for number in np.argsort(starts, kind="stable"):
                with session.trial(changes[number]):
                    outputs = run.outputs(starts[number])
                loss = probe.of_outputs(outputs, y, weight)
                totals[number] += size * loss
    return (totals / sum(size for size, _ in batches)).tolist()


def _split(trials: Sequence[Masks]) -> tuple[Masks, list[Masks]]:
    """Return the masks shared by most trials, and each trial's differences."""
    base: Masks = {}
    # A group that a trial leaves out keeps its mask there.
    for name in trials[0]:
        vectors = [masks[name] for masks in trials if name in masks]
        if len(vectors) == len(trials):
            known = {vector.tobytes(): vector for vector in vectors}
            counts = collections.Counter(v.tobytes() for v in vectors)
            base[name] = known[counts.most_common(1)[0][0]]
    changes = [
        {
            name: mask
            for name, mask in masks.items()
            if name not in base or not np.array_equal(mask, base[name])
        }
        for masks in trials
    ]
    return base, changes
