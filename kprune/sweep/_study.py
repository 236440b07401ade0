"""The Optuna study of a sweep: its storage, its waiting trials and its pruner."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

if TYPE_CHECKING:
    import optuna

_log = logging.getLogger("kprune")

Callback = Callable[["optuna.Study", Any], None]
"""Function that is called after each trial with the study and the `FrozenTrial`."""

FILE = "study.db"

FINGERPRINTS = ("model", "data", "validation")
"""Settings of a study that are stored as a fingerprint."""

INTERRUPTED = "interrupted"
"""Attribute of a trial that Ctrl-C has ended."""

_BEAT = 30  # seconds between the heartbeats of a trial


def load() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            'A sweep needs Optuna: pip install "kprune[sweep]".'
        ) from error
    return optuna


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress Optuna's log and its warnings of experimental features.

    `kprune.sweep` reports the results of trials itself.
    """
    optuna = load()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # Heartbeats, and the functions that read them, are experimental.
            warnings.simplefilter(
                "ignore", optuna.exceptions.ExperimentalWarning
            )
            yield
    finally:
        optuna.logging.set_verbosity(before)


def create(
    folder: Path, storage: Any, name: str, direction: str, seed: int
) -> optuna.Study:
    """Create a study, or continue the study of this name.

    Args:
        folder: Folder of the runs.
        storage: See `kprune.sweep`.
        name: Name of the study.
        direction: `"minimize"` or `"maximize"`.
        seed: Seed of the sampler.
    """
    optuna = load()
    with quiet():
        return optuna.create_study(
            storage=_storage(optuna, storage, folder),
            study_name=name,
            direction=direction,
            sampler=optuna.samplers.RandomSampler(seed=seed),
            pruner=_pruner(optuna),
            load_if_exists=True,
        )


def agree(study: optuna.Study, settings: dict[str, Any]) -> None:
    """Store the settings that all trials share, or compare them with those stored.

    Args:
        study: The study.
        settings: Argument of `kprune.sweep` -> its value or, for a model or samples, a
            fingerprint.

    Raises:
        ValueError: The study was begun with others.
    """
    direction = study.direction.name.lower()
    begun = {**settings, "direction": direction, **study.user_attrs}
    differing = [
        f"another {key}"
        if key in FINGERPRINTS
        else f"{key}={begun[key]!r}, not {value!r}"
        for key, value in settings.items()
        if begun[key] != value
    ]
    if differing:
        raise ValueError(
            f"The study '{study.study_name}' was begun with {'; '.join(differing)}. "
            "Its trials would not compare with new ones: give the same again, or "
            "another `name` or `run_dir`."
        )
    for key, value in settings.items():
        study.set_user_attr(key, value)


def enqueue(
    study: optuna.Study, trials: list[dict[str, Any]], folder: Path
) -> None:
    """Enqueue the trials that the study does not have yet, or has lost to Ctrl-C."""
    import filelock

    with filelock.FileLock(folder / f".{FILE}.lock"):
        there = [
            {
                key: trial.user_attrs.get(key)
                for key in ("method", "target", "parts")
            }
            for trial in asked(study)
        ]
        for trial in trials:
            if trial not in there:
                study.enqueue_trial(trial["target"], user_attrs=trial)


def asked(study: optuna.Study) -> list[Any]:
    """Return the trials of a sweep, but for those that Ctrl-C has ended."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if "method" in trial.user_attrs and INTERRUPTED not in trial.user_attrs
    ]


def waits(study: optuna.Study) -> bool:
    """Return whether a trial is waiting."""
    trials = study.get_trials(deepcopy=False)
    return any(trial.state.name == "WAITING" for trial in trials)


def optimize(
    study: optuna.Study,
    run: Callable[[optuna.Trial], float],
    seconds: float,
    callbacks: Iterable[Callback] = (),
) -> None:
    """Run waiting trials until none is left or the time is over."""
    optuna = load()
    with quiet():
        optuna.storages.fail_stale_trials(study)
        if not waits(study):
            return
        study.optimize(
            run,
            timeout=seconds,
            catch=(Exception,),
            callbacks=[_log_errors, *callbacks, _stop_at_the_end],
        )


def _log_errors(study: optuna.Study, trial: Any) -> None:
    error = trial.user_attrs.get("error")
    if trial.state.name == "FAIL" and error is not None:
        asked = trial.user_attrs
        _log.warning(
            "The trial of %r with %s failed: %s",
            asked["method"],
            asked["target"],
            error,
        )


def check_failures(study: optuna.Study) -> None:
    """Raise RuntimeError if all trials have failed."""
    trials = asked(study)
    if not trials or any(trial.state.name != "FAIL" for trial in trials):
        return
    first = trials[0].user_attrs
    raise RuntimeError(
        f"Every trial of the sweep has failed, the first, of {first['method']!r} with "
        f"{first['target']}, with {first.get('error', 'an unknown error')}. Failed "
        "trials are not tried again: once the cause is mended, give another `name` or "
        "`run_dir`."
    )


def _stop_at_the_end(study: optuna.Study, trial: Any) -> None:
    if not waits(study):
        study.stop()


def finished(study: optuna.Study) -> list[Any]:
    """Return the trials that have a result."""
    return [
        t
        for t in study.get_trials(deepcopy=False)
        if t.state.name == "COMPLETE"
    ]


def _storage(optuna: Any, storage: Any, folder: Path) -> Any:
    """Return a storage that retries the trials of killed processes."""
    url = storage or f"sqlite:///{(folder / FILE).resolve()}"
    if not isinstance(url, str) or url.startswith(("redis:", "journal:")):
        return url
    return optuna.storages.RDBStorage(
        url,
        heartbeat_interval=_BEAT,
        heartbeat_stale_trial_callback=(
            optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=2)
        ),
    )


def _pruner(optuna: Any) -> Any:
    class SameTarget(optuna.pruners.BasePruner):
        """Ends trials that are worse than the median of the same target."""

        def prune(self, study: Any, trial: Any) -> bool:
            step = trial.last_step
            target = trial.user_attrs["target"]
            others = [
                other.intermediate_values[step]
                for other in finished(study)
                if other.user_attrs["target"] == target
                and step in other.intermediate_values
            ]
            if not others:
                return False
            value = trial.intermediate_values[step]
            middle = float(np.median(others))
            if study.direction.name == "MINIMIZE":
                return bool(value > middle)
            return bool(value < middle)

    return SameTarget()
