"""Repeat what a run decided."""

from __future__ import annotations

import logging
import os
from typing import Any

import keras
import numpy as np

from kprune.graph.tracer import LEFT_OUT
from kprune.loading import load
from kprune.masking import is_masked
from kprune.masking import set_masks
from kprune.masking import wrap
from kprune.parts import replayed
from kprune.recovery import base as recoveries
from kprune.runs import describe
from kprune.runs.folder import find_run
from kprune.runs.record import ORIGINAL
from kprune.runs.schema import read_run
from kprune.session import Session

_log = logging.getLogger("kprune")

PRUNE = "kprune.prune"


def replay(
    run: str | os.PathLike[str],
    model: keras.Model | None = None,
    data: Any = None,
) -> keras.Model:
    """Remove the same channels as a recorded run.

    The masks are always those of the run; nothing is scored again. The repair of
    `kprune.prune` is repeated, which gives the same weights up to rounding if model
    and data are the same. Training is not repeated: for a run of `fit`, the result
    is the original model with the masks of the run.

    Args:
        run: `run.json`, or the folder of a run.
        model: The model that the run started with, plain or masked. A plain model
            is not changed. Defaults to the model in the folder.
        data: The samples of the run. Needed if they were used for repair.

    Returns:
        The masked model, as `kprune.prune` returns it.

    Raises:
        FileNotFoundError: There is no such run, or no model in its folder.
        ValueError: The model has other groups of channels, samples are missing,
            or a part of the run cannot be restored from its record.

    Example:

    ```python
    masked = kprune.replay("runs/latest", data=x_train[:1024])
    compact = kprune.rebuild(masked)
    ```
    """
    file = find_run(run)
    record = read_run(file)
    if model is None:
        if ORIGINAL not in record["files"]:
            raise FileNotFoundError(
                f"{str(file.parent)!r} holds no model to start with. Pass it: "
                "kprune.replay(run, model)."
            )
        model = load(file.parent / record["files"][ORIGINAL])
    masked = _wrapped(record, model)
    session = Session(masked, data)
    masks = _masks(record, session)
    repair = _repair(record)
    recoveries.check(repair, session)
    _compare(record, session)
    with session.rollback():
        session.settle()
        before = session.snapshot()
        session.remove(masks)
        recoveries.repair(session, before, repair)
    return masked


def show(run: str | os.PathLike[str], model: keras.Model) -> keras.Model:
    """Return a model with the masks of a run, and with its own weights.

    Args:
        run: See `replay`.
        model: See `replay`. The masks of a masked model are changed in place.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: The model has other groups of channels.
    """
    record = read_run(find_run(run))
    masked = _wrapped(record, model)
    set_masks(masked, _masks(record, Session(masked)))
    return masked


def _wrapped(record: dict[str, Any], model: keras.Model) -> keras.Model:
    if is_masked(model, "replay()"):
        return model
    return wrap(model, _skipped(record) or None)


def _skipped(record: dict[str, Any]) -> list[str]:
    """Return the layers that the user told the run to skip."""
    return [
        layer
        for group in record["groups"]
        if (group["pinned"] or "").endswith(LEFT_OUT)
        for layer in group["layers"]
    ]


def _masks(record: dict[str, Any], session: Session) -> dict[str, np.ndarray]:
    """Return the masks of a run.

    Raises:
        ValueError: The model has other groups.
    """
    sizes = {group.name: group.size for group in session.groups}
    masks = {}
    for group in record["groups"]:
        name, size = group["name"], group["size"]
        if group["pinned"] is not None:
            continue
        if sizes.get(name) != size:
            found = f"has {sizes[name]}" if name in sizes else "is not there"
            raise ValueError(
                f"The run is of another model: group '{name}' had {size} channels, "
                f"but {found} in '{session.masked.name}'."
            )
        masks[name] = np.ones(size, "float32")
        masks[name][group["removed"]] = 0
    return masks


def _repair(record: dict[str, Any]) -> Any:
    if record["asked"]["call"] != PRUNE:
        return []
    try:
        return replayed(record["asked"]["parts"]["recover"])
    except ValueError as error:
        raise ValueError(
            f"The repair of this run cannot be replayed: {error}"
        ) from error


def _compare(record: dict[str, Any], session: Session) -> None:
    """Warn if the model or the samples are not those of the run."""
    found = describe.model_words(session.masked)["fingerprint"]
    if found != record["model"]["fingerprint"]:
        _log.warning(
            "Model '%s' has other weights than the run started with: the masks will "
            "be the same, the weights will not.",
            session.masked.name,
        )
    before, now = record["data"], describe.data_words(session.source)
    if before and now and before["fingerprint"] != now["fingerprint"]:
        _log.warning(
            "These are not the samples of the run: repaired weights may differ."
        )
