"""The record of a run, written while it is running."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import logging
import os
import time
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from kprune.cost import cost
from kprune.data.inputs import fixed_batch
from kprune.parts import recorded
from kprune.rebuild import rebuild
from kprune.runs import describe
from kprune.runs import measure
from kprune.runs import schema
from kprune.runs.folder import RUN
from kprune.runs.folder import new_folder
from kprune.runs.logs import numbers
from kprune.runs.results import merge
from kprune.runs.results import write_pages

if TYPE_CHECKING:
    from kprune.session import Session

_log = logging.getLogger("kprune")
_folders: weakref.WeakKeyDictionary[keras.Model, Path] = (
    weakref.WeakKeyDictionary()
)

ORIGINAL, COMPACT = "original", "compact"
"""Names of the models and rows of results that every finished run has."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a run was asked to do.

    Args:
        method: Name of the method, in a word, for the name of the folder.
        call: Beginning of the call, for the line that repeats it, such as
            `"kprune.prune(model"`.
        arguments: Arguments by name, without samples. None stands for an argument
            that was not given.
        parts: The parts in use: criterion, allocation and so on.
    """

    method: str
    call: str
    arguments: Mapping[str, Any]
    parts: Mapping[str, Any]


def _harmless(method: Callable[..., None]) -> Callable[..., None]:
    """Make a method of a record log a warning instead of raising an error.

    An incomplete record must not end the training or pruning that it records.
    """

    @functools.wraps(method)
    def guarded(self: Record, *args: Any, **kwargs: Any) -> None:
        try:
            with describe.undisturbed():
                method(self, *args, **kwargs)
        except Exception as error:  # A user's model may raise anything.
            _log.warning("The record %s is incomplete: %s", self.folder, error)
            self._note(f"{method.__name__}: {error}")

    return guarded


class Record:
    """Writes `run.json` and the models into a new folder during a run.

    The file exists from the beginning, and is complete at any time. A run that is
    interrupted, for example by Ctrl-C in the middle of an epoch, is marked as failed
    when its record is deleted, or when Python ends. A run whose process was killed
    stays `"running"`. Recording does not change what a run computes.

    Args:
        root: Folder of all runs.
        session: The masked model, before anything is done.
        asked: What the run was asked to do.
        model: The user's model. Defaults to the masked model.
        measures: Whether to compare outputs and metrics with the original's.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        session: Session,
        asked: Asked,
        model: keras.Model | None = None,
        measures: bool = False,
    ) -> None:
        self._session = session
        self._clock = time.monotonic()
        self._measures = measures
        self._inputs: Any = None
        self._outputs: list[np.ndarray] = []
        given = model or session.masked
        self.folder = new_folder(root, given.name, asked.method)
        self._kept = _counts(session)
        arguments = {k: v for k, v in asked.arguments.items() if v is not None}
        now = datetime.datetime.now(datetime.UTC)
        self.run: dict[str, Any] = {
            "kprune_run": schema.VERSION,
            "status": schema.RUNNING,
            "error": None,
            "started": now.isoformat(timespec="seconds"),
            "seconds": 0.0,
            "method": asked.method,
            "asked": {
                "call": asked.call.partition("(")[0],
                "arguments": {k: recorded(v) for k, v in arguments.items()},
                "parts": {k: recorded(v) for k, v in asked.parts.items()},
                "repeat": describe.repeat(
                    asked.call, arguments, session.source is not None
                ),
            },
            "seeds": describe.seeds(),
            "versions": describe.versions(),
            # The class of the user's model, not of its masked copy.
            "model": {
                **describe.model_words(session.masked),
                "kind": type(given).__name__,
            },
            "data": describe.data_words(session.source),
            "groups": describe.group_words(session.graph),
            "events": [],
            "epochs": [],
            "results": [],
            "checks": [],
            "files": {},
            "notes": [],
        }
        self._groups = {group["name"]: group for group in self.run["groups"]}
        self._write()
        # Keras does not tell callbacks about an error that ends `fit`.
        weakref.finalize(self, _give_up, self.folder, self.run, os.getpid())
        self._begin(given)
        self._epoch_clock = time.monotonic()

    @_harmless
    def _begin(self, model: keras.Model) -> None:
        session = self._session
        self._result(ORIGINAL, cost(session.masked, session.graph))
        self._save(ORIGINAL, model)
        if self._measures:
            self._measure(ORIGINAL)
            self._inputs = measure.samples_of(session)
            self._outputs = measure.outputs_of(session.masked, self._inputs)
        self._write()

    @_harmless
    def decided(
        self, epoch: int, scored: tuple[Mapping[str, Any], ...] | None
    ) -> None:
        """Record which channels are left, if that has changed.

        Args:
            epoch: The epoch, counted from 0, before which channels were removed.
            scored: The channels that were alive at the last scoring, and their
                scores, each by the name of the group.
        """
        kept = _counts(self._session)
        if kept == self._kept:
            return
        self._kept = kept
        for name, alive in self._session.alive().items():
            group = self._groups[name]
            group["removed"] = np.flatnonzero(~alive).tolist()
            if scored is None or name not in scored[1]:
                continue
            eligible, scores = scored[0][name], scored[1][name]
            known = group["scores"] or [None] * group["size"]
            group["scores"] = [
                float(f"{new:.6g}") if was else old
                for was, new, old in zip(eligible, scores, known, strict=True)
            ]
        self.run["events"].append({"epoch": epoch, "kept": kept})
        self._write()

    @_harmless
    def epoch(
        self,
        epoch: int,
        logs: Mapping[str, Any] | None,
        model: keras.Model | None = None,
    ) -> None:
        """Record the logs of an epoch.

        Args:
            epoch: The epoch, counted from 0.
            logs: Its logs.
            model: The model in training, to tell its metrics from other logs.
        """
        if model is not None and "metrics" not in self.run:
            self.run["metrics"] = []
            with suppress(Exception):  # Own metrics may raise anything.
                self.run["metrics"] = list(model.get_metrics_result())
        now = time.monotonic()
        self.run["epochs"].append(
            {
                "epoch": epoch,
                "seconds": round(now - self._epoch_clock, 3),
                "logs": self._numbers(logs),
            }
        )
        self._epoch_clock = now
        self._write()

    def finish(self) -> None:
        """Measure and save the compact model, and write the report.

        A run that leaves NaN in the weights has failed.
        """
        lost = measure.not_finite(self._session.masked)
        if lost is not None:
            self.run["error"] = lost
            self._end(schema.FAILED)
            return
        _folders[self._session.masked] = self.folder
        self._rebuilt()
        self._end(schema.FINISHED)

    @_harmless
    def _rebuilt(self) -> None:
        session = self._session
        compact = rebuild(session.masked)
        self._result(COMPACT, cost(session.masked, session.graph))
        self._save(COMPACT, compact)
        if self._measures:
            self._measure(COMPACT)
        inputs = self._inputs
        if inputs is None:
            inputs = measure.samples_of(session)
        masked = measure.outputs_of(session.masked, inputs)
        rebuilt = measure.outputs_of(compact, inputs)
        self._check("compact model against the masked one", masked, rebuilt)
        if self._outputs:
            what = "compact model against the original"
            self._check(what, self._outputs, rebuilt)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Mark the run as failed if the block raises an error."""
        try:
            yield
        except BaseException as error:
            self.run["error"] = f"{type(error).__name__}: {error}"
            self._end(schema.FAILED)
            raise

    @_harmless
    def _end(self, status: str) -> None:
        self.run["status"] = status
        self._write()
        write_pages(self.folder)

    @_harmless  # The user's metrics may fail, which costs nothing but them.
    def _measure(self, name: str) -> None:
        source = self._session.source
        found = self._numbers(measure.evaluated(self._session.masked, source))
        if source is None or source.size is None or not found:
            return
        samples = min(source.size, measure.BATCHES * source.batch_size)
        samples -= samples % (fixed_batch(self._session.masked) or 1)
        row = {"name": name, "metrics": found, "samples": samples}
        merge(self.run["results"], row)

    def _numbers(self, logs: Mapping[str, Any] | None) -> dict[str, float]:
        found = numbers(logs)
        for name in (logs or {}).keys() - found.keys():
            self._note(f"The metric {name!r} is left out: it is no number.")
        return found

    def _result(self, name: str, found: Any) -> None:
        costs = {k: getattr(found, k) for k in ("macs", "params", "bytes")}
        merge(self.run["results"], {"name": name, **costs})

    def _check(
        self, what: str, before: list[np.ndarray], after: list[np.ndarray]
    ) -> None:
        found = measure.difference(before, after)
        self.run["checks"].append(
            {
                "what": what,
                "difference": found and found.max_rel,
                "agreement": found and found.top1,
                "samples": len(before[0]),
            }
        )

    def _save(self, name: str, model: keras.Model) -> None:
        file = f"{name}.keras"
        try:
            model.save(self.folder / file)
        except Exception as error:  # Custom layers may lack a get_config.
            self._note(f"{file} could not be saved: {error}")
        else:
            self.run["files"][name] = file

    def _note(self, text: str) -> None:
        note = " ".join(text.split())[:500]
        if note not in self.run["notes"]:
            self.run["notes"].append(note)

    def _write(self) -> None:
        self.run["seconds"] = round(time.monotonic() - self._clock, 3)
        schema.write_run(self.folder / RUN, self.run)


class Silence:
    """Stands in for a record if none is wanted."""

    def decided(self, epoch: int, scored: Any) -> None:
        """Do nothing."""

    def epoch(self, epoch: int, logs: Any, model: Any = None) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Do nothing around the block."""
        yield


def start(
    root: str | os.PathLike[str] | None,
    session: Session,
    asked: Asked,
    model: keras.Model | None = None,
    measures: bool = False,
) -> Record | Silence:
    """Start the record of a new run. See `Record`. Without `root`, record nothing."""
    if root is None:
        return Silence()
    with describe.undisturbed():
        return Record(root, session, asked, model, measures)


def folder_of(masked: keras.Model) -> Path | None:
    """Return the folder of the finished run that pruned a masked model."""
    return _folders.get(masked)


def _give_up(folder: Path, run: dict[str, Any], process: int) -> None:
    """Mark a run as failed if its record is deleted before it ended.

    Args:
        folder: Folder of the run.
        run: Its record.
        process: Id of the process that records it. A fork holds the record too,
            but must not change it.
    """
    if run["status"] != schema.RUNNING or os.getpid() != process:
        return
    run["status"] = schema.FAILED
    run["error"] = "It was stopped before its end."
    with suppress(OSError):  # The folder may have been removed.
        schema.write_run(folder / RUN, run)


def _counts(session: Session) -> dict[str, int]:
    return {name: int(a.sum()) for name, a in session.alive().items()}
