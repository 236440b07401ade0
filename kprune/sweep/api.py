"""Try and compare many ways to prune one model."""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import keras

from kprune.arguments import did_you_mean
from kprune.arguments import model as check_model
from kprune.arguments import number
from kprune.arguments import share
from kprune.arguments import whole
from kprune.data.arrays import to_numpy
from kprune.data.source import Source
from kprune.data.source import as_source
from kprune.masking.rates import rate_for_fine_tuning
from kprune.masking.slots import base_optimizer
from kprune.recipes import Recipe
from kprune.registry import modules
from kprune.runs.describe import fingerprint
from kprune.runs.describe import model_words
from kprune.runs.measure import metrics
from kprune.runs.measure import minimised
from kprune.sweep import _study
from kprune.sweep import _trial

if TYPE_CHECKING:
    import optuna

METHODS = (_trial.DEFAULT, "l1", "taylor", "similarity", "attenuation")
PARTS = ("allocation", "recover")

_log = logging.getLogger("kprune")


def sweep(  # noqa: PLR0913  each argument is independent
    model: keras.Model,
    methods: Sequence[str] | None = None,
    reduce: Mapping[str, Iterable[float]] | None = None,
    data: Any = None,
    validation: Any = None,
    parts: Mapping[str, Iterable[Any]] | None = None,
    *,
    hours: float = 1.0,
    epochs: int = 10,
    learning_rate: float | None = None,
    batch_size: int = 64,
    metric: str | None = None,
    run_dir: str | os.PathLike[str] = "runs",
    storage: Any = None,
    name: str | None = None,
    seed: int = 0,
    callbacks: Iterable[_study.Callback] = (),
) -> optuna.Study:
    """Try methods, targets and parts on one model, and compare the results.

    Each combination is a trial of an Optuna study and has a run folder. See
    `docs/runs.md`. Call this again with the same storage and name to continue:
    only new trials run, and those of a process that was killed run again. Whatever
    all trials share, such as `epochs` and `data`, has to be the same. Several
    processes or machines that share a storage share the trials. In the second half
    of its epochs, training ends early if it is worse than the median of the trials
    with the same target at the same epoch.

    Args:
        model: A trained and compiled model. It is not changed.
        methods: Names of recipes, and of criteria, which remove filters before the
            first epoch. All train for `epochs`. A name of both stands for the
            recipe. `"default"` is the default of `kprune.prune`. Defaults to
            `kprune.sweep.METHODS`, without the recipes if `epochs` is below 2.
        reduce: Shares to remove of each cost. With several costs, all combinations
            are tried. Defaults to `{"macs": [0.3, 0.5, 0.7]}`.
        data: Arrays `(x, y)` to prune and train with. With `epochs=0`, samples in any
            form, or None for methods that need none.
        validation: Samples `(x, y)` to compare on. They should be neither
            training nor test data.
        parts: Choices of `"allocation"` and `"recover"` to combine with each
            method, for example `{"recover": [None, "bn"]}`. `None` stands for the
            method's own.
        hours: Time in hours after which no trial starts and training ends.
        epochs: Epochs of training of every method. With 0, criteria and
            `"default"` prune without training.
        learning_rate: Learning rate of the first epoch. It falls to 0 along half a
            cosine. Defaults to that of the model's optimizer or, if that has
            decayed below a hundredth of its class's default, to a tenth of the
            default. An optimizer with a schedule keeps the schedule, and a
            `MultiOptimizer` its rates.
        batch_size: Samples per step of training.
        metric: Name of the compiled metric to compare. Defaults to the first one,
            or to the loss if there is none. It is minimised if Keras says so or it
            is named like a loss or an error, and maximised otherwise.
        run_dir: Folder of the runs.
        storage: URL or object of an Optuna storage. Defaults to an SQLite file
            in `run_dir`.
        name: Name of the study. Defaults to a name derived from the model.
        seed: Seed of every trial.
        callbacks: Functions to call with the study and the trial after each trial,
            as in `optuna.Study.optimize`.

    Returns:
        The `optuna.Study`. The `user_attrs` of a trial hold its `method`, `target`
        and `parts`, and those of a finished trial also the folder of its `run`,
        unless a recipe has no callback that records. See `best_model`.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: A name is unknown, a share is outside of (0, 1), the model has
            no loss, the samples have no targets to train with, or the study was
            begun with other settings.
        RuntimeError: Every trial has failed. The message has the first error.

    Example:

    ```python
    study = kprune.sweep(model, data=(x, y), validation=(x_val, y_val), hours=1)
    compact = kprune.load(kprune.best_model(study, {"macs": 0.5}))
    ```
    """
    _study.load()
    check_model(model, "sweep()")
    epochs = whole(epochs, "sweep()", "epochs", least=0)
    trials = list(_trials(_methods(methods, epochs), reduce, parts))
    batch_size = whole(batch_size, "sweep()", "batch_size", of="samples")
    seed = whole(seed, "sweep()", "seed", least=0)
    rate = _learning_rate(model, learning_rate) if epochs else None
    seconds = 3600 * number(hours, "sweep()", "hours", above=0)
    folder = Path(run_dir)
    samples = _samples(data, model, epochs)
    given = as_source(validation, model, "validation")
    before = metrics(model, given, None)
    metric = _metric(before, metric)
    folder.mkdir(parents=True, exist_ok=True)
    direction = "minimize" if minimised(metric, model) else "maximize"
    study = _study.create(
        folder, storage, name or _study_name(model), direction, seed
    )
    settings = {
        "metric": metric,
        "direction": direction,
        "epochs": epochs,
        "learning_rate": rate,
        "batch_size": batch_size,
        "seed": seed,
        "model": model_words(model)["fingerprint"],
        "data": fingerprint(samples and samples.arrays),
        "validation": fingerprint(given.arrays),
    }
    _study.agree(study, settings)
    study.set_user_attr("original", before[metric])
    _study.enqueue(study, trials, folder)
    setting = _trial.Setting(
        model,
        _training_data(samples) if samples and epochs else samples,
        given,
        metric,
        epochs,
        batch_size,
        folder,
        seed,
        time.monotonic() + seconds,
        rate,
    )
    _study.optimize(
        study,
        lambda trial: _trial.run(study, trial, setting),
        seconds,
        callbacks,
    )
    _study.check_failures(study)
    return study


def best_model(
    study: optuna.Study, target: Mapping[str, float] | None = None
) -> Path:
    """Return the file of the best model of a sweep.

    Args:
        study: Result of `sweep`.
        target: Choose among the trials with this target, such as `{"macs": 0.5}`.
            Defaults to all trials.

    Returns:
        Path of a `.keras` file.

    Raises:
        ValueError: No trial has finished, or the best one has no run folder.
    """
    winner = best_trial(study, target)
    if "run" not in winner.user_attrs:
        raise ValueError(
            f"The best trial, of method {winner.user_attrs['method']!r}, has no run "
            "folder: only callbacks that prune record runs, and this recipe has "
            "none. Train with the recipe, and rebuild its model."
        )
    return Path(winner.user_attrs["run"]) / "compact.keras"


def best_trial(
    study: optuna.Study, target: Mapping[str, float] | None = None
) -> Any:
    """Return the best trial of a sweep. See `best_model`."""
    wanted = None if target is None else dict(target)
    done = [
        trial
        for trial in _study.finished(study)
        if wanted in (None, trial.user_attrs["target"])
    ]
    if not done:
        targets = [
            trial.user_attrs["target"] for trial in _study.finished(study)
        ]
        raise ValueError(
            f"No trial of the sweep has finished with the target {wanted}. "
            f"Finished are: {targets}."
        )
    choose = min if study.direction.name == "MINIMIZE" else max
    return choose(done, key=lambda trial: trial.value)


def _methods(methods: Sequence[str] | None, epochs: int) -> list[str]:
    """Return the methods that can train for this number of epochs.

    Raises:
        ValueError: A given recipe needs more epochs.
    """
    enough = epochs >= Recipe.fewest_epochs
    if methods is None:
        return [m for m in METHODS if enough or not _trial.is_recipe(m)]
    for method in methods:
        if _trial.is_recipe(method) and not enough:
            raise ValueError(
                f"The recipe {method!r} trains for at least {Recipe.fewest_epochs} "
                f"epochs. Received: epochs={epochs}. Pass more, or leave it out of "
                "`methods`."
            )
    return list(methods)


def _samples(data: Any, model: keras.Model, epochs: int) -> Source | None:
    """Return the samples to prune and train with.

    Raises:
        ValueError: Training needs other samples.
    """
    samples = None if data is None else as_source(data, model)
    if not epochs:
        return samples
    if samples is None or samples.arrays is None or samples.arrays[1] is None:
        raise ValueError(
            "sweep() trains each method on arrays with targets: pass `data` as "
            "(x, y), with the batches of a stream concatenated; or give epochs=0 to "
            "compare methods without training. Received: "
            f"{'inputs only' if samples and samples.arrays else type(data).__name__}."
        )
    samples.check_targets()
    return samples


def _training_data(samples: Source) -> tuple[Any, ...]:
    """Return `(x, y)` or `(x, y, sample_weight)` as NumPy arrays."""
    x, y, weight = to_numpy(samples.arrays)
    return (x, y) if weight is None else (x, y, weight)


def _learning_rate(model: keras.Model, given: float | None) -> float | None:
    """Return the first learning rate, or None if the optimizer has not just one.

    Raises:
        ValueError: A number was given, but the optimizer has a schedule, or is a
            `MultiOptimizer`.
    """
    optimizer = base_optimizer(model.optimizer)
    if not isinstance(optimizer, keras.Optimizer):
        return None
    own = optimizer.get_config().get("learning_rate")
    scheduled = not isinstance(own, float)
    if given is not None:
        rate = number(given, "sweep()", "learning_rate", above=0)
        if scheduled:
            raise ValueError(
                f"The optimizer of model '{model.name}' has a schedule or several "
                "rates, which `learning_rate` cannot replace. Compile the model with "
                "one number."
            )
        return rate
    better = rate_for_fine_tuning(optimizer)
    if better is None:
        return None if scheduled else float(own)
    left = float(optimizer.learning_rate)
    if scheduled:
        _log.warning(
            "The schedule of the optimizer is at a learning rate of %.2g, too low to "
            "train with. Compile the model with another one, such as %g.",
            left,
            better,
        )
        return None
    _log.warning(
        "The model was saved with a learning rate of %.2g, too low to train with. "
        "Trials start with %g; learning_rate= sets another.",
        left,
        better,
    )
    return better


def _trials(
    methods: Sequence[str],
    reduce: Mapping[str, Iterable[float]] | None,
    parts: Mapping[str, Iterable[Any]] | None,
) -> Iterator[dict[str, Any]]:
    """Yield the attributes of each trial, those of cheap methods first.

    Raises:
        ValueError: A name is unknown, or a share is outside of (0, 1).
    """
    known = [_trial.DEFAULT, *modules("criteria"), *modules("recipes")]
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
    for method in sorted(methods, key=_trial.is_recipe):
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


def _study_name(model: keras.Model) -> str:
    words = model_words(model)
    # Keras numbers default names, and another process may count differently.
    name = re.sub(r"_\d+$", "", words["name"])
    return f"{name}-{words['fingerprint']}"
