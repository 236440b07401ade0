"""One trial of a sweep: a copy of the model is pruned, trained and measured."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from kprune import runs
from kprune.pruning import prune
from kprune.rebuild import rebuild
from kprune.recipes.base import recipe
from kprune.registry import modules
from kprune.runs.measure import Batches
from kprune.runs.measure import metrics
from kprune.sweep import _study

if TYPE_CHECKING:
    import optuna

DEFAULT = "default"
"""The method that `kprune.prune` takes by itself."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all trials of a sweep share.

    Args:
        model: The trained model.
        data: Samples to prune and train with.
        validation: Samples to compare results on.
        metric: Name of the compiled metric.
        epochs: Epochs of a recipe.
        batch_size: Samples per step of a recipe.
        run_dir: Folder of the runs.
        seed: Of every trial.
        end: When training ends, on the clock of `time.monotonic`.
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


def run(study: optuna.Study, trial: optuna.Trial, setting: Setting) -> float:
    """Prune a copy of the model as a trial says; return how good it is."""
    optuna = _study.load()
    asked = trial.user_attrs
    if "method" not in asked:
        study.stop()  # Another process has taken the last one.
        raise optuna.TrialPruned
    for cost in asked["target"]:
        # Optuna's own plots read parameters.
        trial.suggest_float(cost, 0.0, 1.0)
    keras.utils.set_random_seed(setting.seed)
    try:
        masked = (_trained if trains(asked["method"]) else _pruned)(
            trial, setting
        )
        compact = rebuild(masked)
    except optuna.TrialPruned:
        raise
    except Exception as error:
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        raise
    found = metrics(compact, setting.validation, None)
    folder = runs.folder_of(masked)
    if folder is not None:
        # Metrics of all rows are those of the validation samples now.
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


def trains(method: str) -> bool:
    """Return whether a method is a recipe, which takes epochs."""
    return method in modules("recipes")


def _pruned(trial: optuna.Trial, setting: Setting) -> keras.Model:
    asked = trial.user_attrs
    method = asked["method"]
    return prune(
        setting.model,
        None if method == DEFAULT else method,
        asked["target"],
        data=setting.data,
        run_dir=setting.run_dir,
        **asked["parts"],
    )


def _trained(trial: optuna.Trial, setting: Setting) -> keras.Model:
    asked = trial.user_attrs
    made = recipe(
        asked["method"],
        asked["target"],
        setting.data,
        setting.epochs,
        run_dir=setting.run_dir,
        **asked["parts"],
    )
    masked = made.prepare(setting.model)
    watch = _Watch(trial, setting)
    masked.fit(
        _Shuffled(setting.data, setting.batch_size, setting.seed),
        validation_data=Batches(setting.validation.batches()),
        epochs=setting.epochs,
        callbacks=[*made.callbacks, watch],
        verbose=0,
        shuffle=False,
    )
    if watch.stopped:
        raise _study.load().TrialPruned
    return masked


class _Watch(keras.callbacks.Callback):
    """Reports each epoch, and ends training that loses or takes too long."""

    def __init__(self, trial: optuna.Trial, setting: Setting) -> None:
        super().__init__()
        self._trial = trial
        self._setting = setting
        self.stopped = False

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        setting = self._setting
        value = (logs or {})[f"val_{setting.metric}"]
        self._trial.report(float(value), epoch)
        last = epoch + 1 >= setting.epochs
        late = time.monotonic() > setting.end
        if not last and (late or self._trial.should_prune()):
            self.stopped = self.model.stop_training = True


class _Shuffled(keras.utils.PyDataset):
    """Arrays in batches, in another order each epoch."""

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
        return keras.tree.map_structure(lambda a: a[chosen], self._data)

    def on_epoch_end(self) -> None:
        count = len(keras.tree.flatten(self._data)[0])
        self._order = self._rng.permutation(count)
