"""sweep(): many ways to prune one model, tried and compared."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
import warnings
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from kprune import runs
from kprune.arguments import did_you_mean
from kprune.arguments import model as check_model
from kprune.arguments import number
from kprune.arguments import share
from kprune.data.source import as_source
from kprune.pruning import prune
from kprune.rebuild import rebuild
from kprune.recipes.base import recipe
from kprune.registry import modules
from kprune.runs.describe import model_words
from kprune.runs.measure import Batches
from kprune.runs.measure import metrics

if TYPE_CHECKING:
    import optuna

DEFAULT = "default"
"""The method that `kprune.prune` takes by itself."""

METHODS = (DEFAULT, "l1", "taylor", "similarity", "attenuation")
STUDY = "study.db"
PARTS = ("allocation", "recover")

_BEAT = 30  # seconds between the signs of life that a trial gives


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


def sweep(  # noqa: PLR0913  each is a choice of its own
    model: keras.Model,
    methods: Sequence[str] = METHODS,
    reduce: Mapping[str, Iterable[float]] | None = None,
    data: Any = None,
    validation: Any = None,
    parts: Mapping[str, Iterable[Any]] | None = None,
    *,
    hours: float = 1.0,
    epochs: int = 10,
    batch_size: int = 64,
    metric: str | None = None,
    run_dir: str | os.PathLike[str] = "runs",
    storage: Any = None,
    name: str | None = None,
    seed: int = 0,
) -> optuna.Study:
    """Try methods, targets and parts on one model, and compare the results.

    Each combination is a trial of an Optuna study and has a run folder, see
    `docs/runs.md`. Calling this again with the same storage and name goes on
    where it ended, tries only what is new, and tries again what a process that
    was killed had begun. Several processes or machines that share a storage
    share the trials. Training that is worse than half of the trials of the same
    target were at the same epoch ends early.

    Args:
        model: A trained and compiled model. It stays as it is.
        methods: Names of recipes, which train for `epochs`, and of criteria, by
            which `kprune.prune` prunes at once. A name of both is the recipe.
            `"default"` is what `kprune.prune` does by itself.
        reduce: For each cost the shares to remove: `{"macs": [0.3, 0.5, 0.7]}`.
            Defaults to these. With several costs, all combinations.
        data: Arrays `(x, y)` to prune and train with.
        validation: Samples `(x, y)` to compare on. They should be neither
            training nor test data.
        parts: Choices of `"allocation"` and `"recover"` to combine with each
            method: `{"recover": [None, "bn"]}`. `None` is the method's own.
        hours: Time after which no trial begins, and training ends.
        epochs: Epochs of a recipe.
        batch_size: Samples per step of a recipe.
        metric: Name of the compiled metric to compare by. Defaults to the first
            one, or the loss where there is none. A loss or an error is
            minimised, everything else maximised.
        run_dir: Folder of the runs.
        storage: URL or object of an Optuna storage. Defaults to an SQLite file
            in `run_dir`.
        name: Name of the study. Defaults to one that follows from the model.
        seed: Of every trial.

    Returns:
        The `optuna.Study`. `user_attrs` of a trial say its `method`, `target`
        and `parts`, and of a finished one its `run`, a folder. See `best_model`.

    Raises:
        ImportError: Optuna is missing.
        ValueError: An unknown name, a share outside of (0, 1), or a model
            without a loss.

    Example:

    ```python
    study = kprune.sweep(model, data=(x, y), validation=(x_val, y_val), hours=1)
    compact = kprune.load(kprune.best_model(study, {"macs": 0.5}))
    ```
    """
    optuna = _optuna()
    check_model(model, "sweep()")
    trials = list(_trials(methods, reduce, parts))
    folder = Path(run_dir)
    given = as_source(validation, model, "validation")
    before = metrics(model, given, None)
    metric = _metric(before, metric)
    folder.mkdir(parents=True, exist_ok=True)
    seconds = 3600 * number(hours, "sweep()", "hours", above=0)
    direction = "minimize" if _minimised(metric) else "maximize"
    study = optuna.create_study(
        storage=_storage(optuna, storage, folder),
        study_name=name or _study_name(model),
        direction=direction,
        sampler=optuna.samplers.RandomSampler(seed=seed),
        pruner=_pruner(optuna),
        load_if_exists=True,
    )
    study.set_user_attr("metric", metric)
    study.set_user_attr("original", before[metric])
    _enqueue(study, trials, folder)
    setting = Setting(
        model,
        data,
        given,
        metric,
        epochs,
        batch_size,
        folder,
        seed,
        time.monotonic() + seconds,
    )
    _optimize(optuna, study, setting, seconds)
    return study


def _optimize(
    optuna: Any, study: optuna.Study, setting: Setting, seconds: float
) -> None:
    """Run trials that wait, until none does or the time is over."""
    with warnings.catch_warnings():
        # Signs of life are experimental in Optuna, and so is what reads them.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
        if not _waiting(study):
            return
        study.optimize(
            lambda trial: _run(optuna, study, trial, setting),
            timeout=seconds,
            catch=(Exception,),
            callbacks=[
                lambda study, _: None if _waiting(study) else study.stop()
            ],
        )


def best_model(
    study: optuna.Study, target: Mapping[str, float] | None = None
) -> Path:
    """Return the file of the best model of a sweep.

    Args:
        study: What `sweep` returned.
        target: Among the trials of this target: `{"macs": 0.5}`. Defaults to
            all.

    Raises:
        ValueError: No trial has finished.
    """
    wanted = None if target is None else dict(target)
    done = [
        trial
        for trial in finished(study)
        if wanted in (None, trial.user_attrs["target"])
    ]
    if not done:
        targets = [trial.user_attrs["target"] for trial in finished(study)]
        raise ValueError(
            f"No trial of the sweep has finished with the target {wanted}. "
            f"Finished are: {targets}."
        )
    choose = min if study.direction.name == "MINIMIZE" else max
    winner = choose(done, key=lambda trial: trial.value)
    return Path(winner.user_attrs["run"]) / "compact.keras"


def finished(study: optuna.Study) -> list[Any]:
    """Return the trials that gave a result."""
    return [
        t
        for t in study.get_trials(deepcopy=False)
        if t.state.name == "COMPLETE"
    ]


def _trials(
    methods: Sequence[str],
    reduce: Mapping[str, Iterable[float]] | None,
    parts: Mapping[str, Iterable[Any]] | None,
) -> Iterator[dict[str, Any]]:
    """Yield what each trial is: the cheap methods first, for each target.

    Raises:
        ValueError: A name that is not known, or a share outside of (0, 1).
    """
    known = [DEFAULT, *modules("criteria"), *modules("recipes")]
    for method in methods:
        if method not in known:
            raise ValueError(
                f"sweep() does not know the method {method!r}. "
                f"{did_you_mean(method, known)}"
            )
    targets = reduce or {"macs": (0.3, 0.5, 0.7)}
    shares = [
        [share(s, "sweep()", "reduce") for s in v] for v in targets.values()
    ]
    choices = parts or {}
    for part in choices:
        if part not in PARTS:
            raise ValueError(
                f"sweep() does not know the part {part!r}. "
                f"{did_you_mean(part, PARTS)}"
            )
    for method in sorted(methods, key=_trains):
        for chosen in itertools.product(*choices.values()):
            for wanted in itertools.product(*shares):
                yield {
                    "method": method,
                    "target": dict(zip(targets, wanted, strict=True)),
                    "parts": {
                        part: value
                        for part, value in zip(choices, chosen, strict=True)
                        if value is not None
                    },
                }


def _enqueue(
    study: optuna.Study, trials: list[dict[str, Any]], folder: Path
) -> None:
    """Let trials wait that are not there yet."""
    import filelock

    with filelock.FileLock(folder / f".{STUDY}.lock"):
        there = [
            {
                key: trial.user_attrs.get(key)
                for key in ("method", "target", "parts")
            }
            for trial in study.get_trials(deepcopy=False)
        ]
        for trial in trials:
            if trial not in there:
                study.enqueue_trial(trial["target"], user_attrs=trial)


def _run(
    optuna: Any, study: optuna.Study, trial: optuna.Trial, setting: Setting
) -> float:
    """Prune a copy of the model as a trial says; return how good it is."""
    asked = trial.user_attrs
    if "method" not in asked:
        study.stop()  # Another process has taken the last one.
        raise optuna.TrialPruned
    for cost in asked["target"]:
        # Optuna's own plots read parameters.
        trial.suggest_float(cost, 0.0, 1.0)
    keras.utils.set_random_seed(setting.seed)
    try:
        masked = (_trained if _trains(asked["method"]) else _pruned)(
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


def _trains(method: str) -> bool:
    return method in modules("recipes")


def _waiting(study: optuna.Study) -> bool:
    trials = study.get_trials(deepcopy=False)
    return any(trial.state.name == "WAITING" for trial in trials)


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
        raise _optuna().TrialPruned
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


def _metric(before: Mapping[str, float], wanted: str | None) -> str:
    if not before:
        raise ValueError(
            "sweep() compares by a metric of the model: compile it with a loss, and "
            "give labelled samples as `validation`: (x, y)."
        )
    if wanted is None:
        return next((n for n in before if not n.endswith("loss")), "loss")
    if wanted not in before:
        raise ValueError(
            f"The model has no metric {wanted!r}. {did_you_mean(wanted, before)}"
        )
    return wanted


def _minimised(metric: str) -> bool:
    return any(word in metric for word in ("loss", "error", "mae", "mse"))


def _study_name(model: keras.Model) -> str:
    words = model_words(model)
    return f"{words['name']}-{words['fingerprint']}"


def _storage(optuna: Any, storage: Any, folder: Path) -> Any:
    """Return a storage in which trials of killed processes are tried again."""
    url = storage or f"sqlite:///{(folder / STUDY).resolve()}"
    if not isinstance(url, str) or url.startswith(("redis:", "journal:")):
        return url
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RDBStorage(
            url,
            heartbeat_interval=_BEAT,
            heartbeat_stale_trial_callback=(
                optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=2)
            ),
        )


def _pruner(optuna: Any) -> Any:
    class SameTarget(optuna.pruners.BasePruner):
        """Ends what is worse than the median of the same target."""

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


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            'A sweep needs Optuna: pip install "kprune[sweep]".'
        ) from error
    return optuna
