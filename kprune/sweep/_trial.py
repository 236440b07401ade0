"""Run one trial of a sweep: prune, train and measure a copy of the model."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from kprune import runs
from kprune.callbacks import PruneCallback
from kprune.data.arrays import count
from kprune.data.arrays import take
from kprune.masking import wrap
from kprune.pruning import prune
from kprune.rebuild import rebuild
from kprune.recipes.base import recipe
from kprune.registry import modules
from kprune.runs.logs import numbers
from kprune.runs.measure import Batches
from kprune.runs.measure import metrics
from kprune.runs.measure import not_finite
from kprune.sweep import _study

if TYPE_CHECKING:
    import optuna

_log = logging.getLogger("kprune")

DEFAULT = "default"
"""The default method of `kprune.prune`."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings that all trials of a sweep share.

    Args:
        model: The trained model.
        data: Samples to prune and train with; to train, a tuple of NumPy arrays.
        validation: Samples to compare results on.
        metric: Name of the compiled metric to compare.
        epochs: Number of epochs of training.
        batch_size: Samples per step of training.
        run_dir: Folder of the runs.
        seed: Seed of every trial.
        end: Time at which training ends, on the clock of `time.monotonic`.
        learning_rate: Learning rate of the first epoch, or None to leave it to the
            optimizer.
    """

    model: keras.Model
    data: Any
    validation: Any
    metric: str
    epochs: int
    batch_size: int
    run_dir: Path
    seed: int
    end: float
    learning_rate: float | None = None


def run(study: optuna.Study, trial: optuna.Trial, setting: Setting) -> float:
    """Run a trial; return the value of the metric. See `_run`."""
    try:
        return _run(study, trial, setting)
    except KeyboardInterrupt:
        # Optuna counts it as failed, but it is to be tried again.
        trial.set_user_attr(_study.INTERRUPTED, True)
        raise


def is_recipe(method: str) -> bool:
    """Return whether a method is a recipe, which needs epochs."""
    return method in modules("recipes")


def _run(study: optuna.Study, trial: optuna.Trial, setting: Setting) -> float:
    """Prune a copy of the model as a trial asks, and measure it."""
    optuna = _study.load()
    asked = trial.user_attrs
    if "method" not in asked:
        study.stop()  # Another process has taken the last waiting trial.
        raise optuna.TrialPruned
    for cost in asked["target"]:
        # Optuna's own plots need parameters.
        trial.suggest_float(cost, 0.0, 1.0)
    keras.utils.set_random_seed(setting.seed)
    try:
        masked = (_trained if setting.epochs else _pruned)(trial, setting)
        compact = rebuild(masked)
        found = metrics(compact, setting.validation, None)
        if math.isnan(found[setting.metric]):
            raise ValueError(
                f"{setting.metric!r} is NaN on the validation samples: "
                f"{not_finite(compact) or 'the outputs overflow.'}"
            )
    except optuna.TrialPruned:
        raise
    except Exception as error:
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        raise
    folder = runs.folder_of(masked)
    if folder is not None:
        # Replace the metrics of all rows by those on the validation samples.
        size = setting.validation.size
        original = {setting.metric: study.user_attrs["original"]}
        rows = {"compact": found, "original": original}
        runs.annotate(
            folder,
            [
                {"name": n, "metrics": m, "samples": size}
                for n, m in rows.items()
            ],
        )
        trial.set_user_attr("run", os.fspath(folder))
    return found[setting.metric]


def _criterion(method: str) -> str | None:
    return None if method == DEFAULT else method


def _pruned(trial: optuna.Trial, setting: Setting) -> keras.Model:
    asked = trial.user_attrs
    return prune(
        setting.model,
        _criterion(asked["method"]),
        asked["target"],
        data=setting.data,
        run_dir=setting.run_dir,
        **asked["parts"],
    )


def _trained(trial: optuna.Trial, setting: Setting) -> keras.Model:
    asked = trial.user_attrs
    masked, actions = _prepared(asked, setting)
    watch = _Watch(trial, setting)
    first = [] if setting.learning_rate is None else [_Decay(setting)]
    masked.fit(
        _Shuffled(setting.data, setting.batch_size, setting.seed),
        validation_data=Batches(setting.validation.batches()),
        epochs=setting.epochs,
        callbacks=[*first, *actions, watch],
        verbose=0,
        shuffle=False,
    )
    if watch.loses or (watch.late and is_recipe(asked["method"])):
        raise _study.load().TrialPruned
    if watch.late:
        # All filters went before the first epoch.
        _log.warning(
            "Time ran out after %d of %d epochs of the trial of %r with %s. The model "
            "counts as it is.",
            len(masked.history.epoch),
            setting.epochs,
            asked["method"],
            asked["target"],
        )
    return masked


def _prepared(
    asked: dict[str, Any], setting: Setting
) -> tuple[keras.Model, list[keras.callbacks.Callback]]:
    """Return a masked copy of the model, and the callbacks that prune it."""
    method, target, parts = (asked[k] for k in ("method", "target", "parts"))
    if not is_recipe(method):
        prunes = PruneCallback(
            _criterion(method),
            target,
            "one_shot",
            data=setting.data,
            run_dir=setting.run_dir,
            **parts,
        )
        prunes.method = method
        return wrap(setting.model), [prunes]
    made = recipe(
        method,
        target,
        setting.data,
        setting.epochs,
        run_dir=setting.run_dir,
        **parts,
    )
    return made.prepare(setting.model), made.callbacks


class _Decay(keras.callbacks.Callback):
    """Lets the learning rate fall along half a cosine, and restores it."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self._first = setting.learning_rate or 0.0
        self._epochs = setting.epochs

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        share = (1 + math.cos(math.pi * epoch / self._epochs)) / 2
        self.model.optimizer.learning_rate = self._first * share

    def on_train_end(self, logs: Any = None) -> None:
        # So that the result can be trained further.
        self.model.optimizer.learning_rate = self._first


class _Watch(keras.callbacks.Callback):
    """Reports each epoch, and ends training that is worse or takes too long."""

    def __init__(self, trial: optuna.Trial, setting: Setting) -> None:
        super().__init__()
        self._trial = trial
        self._setting = setting
        self.loses = self.late = False

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        setting = self._setting
        value = numbers(logs)[f"val_{setting.metric}"]
        self._trial.report(value, epoch)
        if epoch + 1 < setting.epochs:
            # Methods that remove filters late fall behind for a while.
            half = 2 * (epoch + 1) > setting.epochs
            self.loses = half and self._trial.should_prune()
            self.late = time.monotonic() > setting.end
            self.model.stop_training = self.loses or self.late


class _Shuffled(keras.utils.PyDataset):
    """Batches of arrays, in a new order each epoch."""

    def __init__(self, data: Any, batch_size: int, seed: int) -> None:
        super().__init__()
        self._data = data
        self._size = batch_size
        self._rng = np.random.default_rng(seed)
        self.on_epoch_end()

    @property
    def num_batches(self) -> int:
        return -(-len(self._order) // self._size)

    def __getitem__(self, index: int) -> Any:
        chosen = self._order[index * self._size : (index + 1) * self._size]
        return take(self._data, chosen)

    def on_epoch_end(self) -> None:
        self._order = self._rng.permutation(count(self._data))
