"""The base class of recipes, and how to find and register them."""

from __future__ import annotations

import abc
import functools
import logging
import os
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras

from kprune import allocation as allocations
from kprune import criteria
from kprune import schedules
from kprune.allocation._api import DEFAULT_REDUCE
from kprune.allocation._manual import Manual
from kprune.arguments import did_you_mean
from kprune.arguments import whole
from kprune.callbacks import PruningCallback
from kprune.display import Displayed
from kprune.masking import is_masked
from kprune.masking import wrap
from kprune.parts import EVIDENCE
from kprune.parts import Part
from kprune.recipes._epochs import CheckEpochs
from kprune.recipes._functions import class_of
from kprune.recipes._page import page
from kprune.recovery import base as recoveries
from kprune.registry import Registry

_log = logging.getLogger("kprune")


class Recipe(Displayed, Part, abc.ABC):
    """A published pruning system: it prepares a model and supplies callbacks.

    A recipe has no machinery of its own. It combines public parts (criterion,
    allocation, schedule, callback, regularizer), each of which can be replaced. A
    subclass names these parts. Register it with `kprune.recipes.register` to find
    it by name.

    Args:
        reduce: Share of each cost to remove. See `kprune.prune`.
        data: Samples for parts that run the model. See `kprune.prune`.
        epochs: Number of epochs that `fit` will run, fine-tuning included.
        recover: How to repair the remaining layers after filters are removed and
            before training continues. See `kprune.prune`. Needs `data`. Defaults
            to no repair beyond the recipe's own parts.
        run_dir: Folder in which each `fit` makes a new folder for its run. See
            `kprune.prune`.
        **parts: Parts to replace, by the names in `defaults`.

    Example:

    ```python
    @kprune.recipes.register("uniform_l1")
    class UniformL1(kprune.recipes.Recipe):
        summary = "The same share of each layer's shortest filters is removed."
        citation = "Li et al., ICLR 2017"
        url = "https://arxiv.org/abs/1608.08710"
        when = "You have nothing but a trained model, and can fine-tune it."

        @property
        def defaults(self):
            return {"criterion": "l1", "allocation": "uniform"}

        def actions(self):
            return [PruneCallback(**self.parts, **self.task)]
    ```
    """

    unsaved = ("data", "run_dir")

    name = ""
    """Name that the recipe is registered under."""

    summary = ""
    """What the recipe does, in a sentence or two."""

    citation = ""
    """Authors, title and place of the publication."""

    url = ""
    """Link to the publication."""

    fewest_epochs = 2
    """Minimum number of epochs."""

    default_reduce: Mapping[str, float] = DEFAULT_REDUCE
    """Default of `reduce`."""

    learns: tuple[str, ...] = ()
    """Evidence used besides that of the parts. See `kprune.parts.EVIDENCE`."""

    when = ""
    """When to choose the recipe, in a sentence."""

    saves = "Removes"
    """What happens to the share in `reduce`, for `print`."""

    untargeted = "Removes what the allocation says"
    """What happens if `reduce` is empty, for `print`."""

    def __init__(
        self,
        reduce: Mapping[str, float] | None = None,
        data: Any = None,
        epochs: int | None = None,
        recover: Any = None,
        run_dir: str | os.PathLike[str] | None = None,
        **parts: Any,
    ) -> None:
        self.run_dir = run_dir
        self.epochs = self._checked_epochs(epochs)
        self.data = data
        self.recover = recover
        by_hand = isinstance(parts.get("allocation"), Mapping | Manual)
        if reduce is None:
            reduce = {} if by_hand else self.default_reduce
        elif not isinstance(reduce, Mapping):
            raise TypeError(
                "`reduce` says which share of which cost to remove, for example "
                f'reduce={{"macs": 0.5}}. Received: {reduce!r}.'
            )
        self.reduce = dict(reduce)
        defaults = self.defaults
        for part in parts:
            if part not in defaults:
                raise ValueError(
                    f"Recipe '{self.name}' has no part {part!r}. "
                    f"{did_you_mean(part, defaults)}"
                )
        self.parts = {**defaults, **parts}
        self.check_parts()
        if data is None:
            self._check_data()

    @property
    @abc.abstractmethod
    def defaults(self) -> dict[str, Any]:
        """The published parts by name, scaled to `epochs`."""

    @abc.abstractmethod
    def actions(self) -> list[keras.callbacks.Callback]:
        """Return the callbacks that carry the recipe out, from `parts`."""

    def start(self, masked: keras.Model) -> None:
        """Prepare a wrapped model for training. Does nothing by default."""

    def check_parts(self) -> None:
        """Raise if the parts do not fit each other. Does nothing by default."""

    def phases(self) -> list[tuple[str, str]]:
        """Return pairs of when and what happens, for `print`."""
        return []

    @property
    def task(self) -> dict[str, Any]:
        """Arguments for callbacks: `reduce`, `data`, and `recover` if it is set."""
        asked: dict[str, Any] = {"reduce": self.reduce or None}
        asked["data"] = self.data
        if self.recover is not None:
            asked["recover"] = self.recover
        return asked

    @property
    def rounds(self) -> list[int]:
        """The epochs, from 0, at which the part `schedule` acts."""
        schedule = schedules.get(self.parts["schedule"])
        return schedule.toward(self.reduce).rounds(self.epochs)

    def prepare(self, model: keras.Model) -> keras.Model:
        """Wrap a model and prepare it for training with this recipe.

        Args:
            model: A plain model, which is not changed, or one that
                `kprune.wrap` made (with layers to skip, for example), which is
                prepared in place and returned.

        Returns:
            The masked model, compiled if `model` was.

        Raises:
            ValueError: See `kprune.wrap`.
        """
        masked = model if is_masked(model) else wrap(model)
        self.start(masked)
        return masked

    @property
    def decides_by(self) -> tuple[str, ...]:
        """The evidence by which filters are chosen. See `kprune.parts.EVIDENCE`."""
        found = set(self.learns)
        for name, part in self.parts.items():
            resolve = _RESOLVED.get(name)
            part = part if resolve is None or part is None else resolve(part)
            found.update(getattr(part, "decides_by", ()))
            for other in getattr(part, "criteria", ()):
                found.update(criteria.get(other).decides_by)
        return tuple(name for name in EVIDENCE if name in found)

    @property
    def needs(self) -> str:
        """What `data` must hold: `"labels"`, `"images"` or `""` if it is optional."""
        try:
            self._check_data()
        except ValueError:
            labels = {"gradients", "loss"}.intersection(self.decides_by)
            return "labels" if labels else "images"
        return ""

    @functools.cached_property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Callbacks to pass to `fit`; the same objects on each access."""
        actions = self.actions()
        prune = [a for a in actions if isinstance(a, PruningCallback)]
        if self.run_dir is not None:
            for action in prune:
                action.run_dir, action.method = self.run_dir, self.name
            if not prune:
                _log.warning(
                    "Recipe '%s' prunes nothing during fit, so that no run is "
                    "recorded in %s.",
                    self.name,
                    self.run_dir,
                )
        return [CheckEpochs(self.name, self.epochs), *actions]

    def __str__(self) -> str:
        return page(self)

    def _checked_epochs(self, epochs: Any) -> int:
        if epochs is None:
            raise ValueError(
                f"Recipe '{self.name}' spreads its work over training, so it must "
                "know the number of epochs. Pass for example epochs=30, and the same "
                "number to fit(..., epochs=30)."
            )
        number = whole(epochs, f"Recipe '{self.name}'", "epochs", of="epochs")
        if number < self.fewest_epochs:
            raise ValueError(
                f"Recipe '{self.name}' needs {self.fewest_epochs} epochs or more. "
                f"Received: epochs={epochs!r}. To prune at once, without training, "
                "use kprune.prune(model, ...)."
            )
        return number

    def _check_data(self) -> None:
        """Raise errors about missing data now, not when training begins."""
        try:
            if self.parts.get("criterion") is not None:
                criteria.get(self.parts["criterion"]).check(None)
            allocation = allocations.get(self.parts.get("allocation", "global"))
            for criterion in allocation.criteria:
                criteria.get(criterion).check(None)
            if allocation.needs_loss or allocation.needs_data:
                raise ValueError(
                    f"Allocation {type(allocation).__name__} runs the model on "
                    "samples. Pass a few hundred with their targets as "
                    "`data=`: arrays (x, y), a tf.data.Dataset, a "
                    "keras.utils.PyDataset or a generator."
                )
            if self.recover is not None:
                recoveries.check(self.recover, None)
        except ValueError as error:
            raise ValueError(
                f"Recipe '{self.name}' lacks data. {error}"
            ) from error


_RESOLVED = {"criterion": criteria.get, "allocation": allocations.get}
"""Parts that may be names."""


def _adapt(function: Callable[..., list[Any]], **arguments: Any) -> Recipe:
    made: Recipe = class_of(function, function.__name__, Recipe)(**arguments)
    return made


registry = Registry("recipe", Recipe, _adapt, "recipes")


def register(name: str) -> Callable[[Any], Any]:
    """Return a decorator that registers a recipe.

    Args:
        name: Name for `kprune.recipe`.

    Returns:
        A decorator for a subclass of `Recipe`, or a function
        `f(reduce, data, epochs, **parts) -> callbacks`.

    Raises:
        ValueError: `name` is taken.

    Example:

    ```python
    @kprune.recipes.register("slow_l2")
    def slow_l2(reduce, data, epochs, power=1):
        \"\"\"The shortest filters are removed, a few before each epoch.\"\"\"
        schedule = kprune.Polynomial(end=epochs - 1, power=power)
        return [PruneCallback("l2", reduce, schedule)]
    ```
    """
    decorate = registry.register(name)

    def decorator(thing: Any) -> Any:
        if isinstance(thing, type) and issubclass(thing, Recipe):
            decorate(thing)
            thing.name = name
        else:
            decorate(class_of(thing, name, Recipe))
        return thing

    return decorator


def recipe(
    name: str,
    reduce: Mapping[str, float] | None = None,
    data: Any = None,
    epochs: int | None = None,
    recover: Any = None,
    run_dir: str | os.PathLike[str] | None = None,
    **parts: Any,
) -> Recipe:
    """Return a published pruning system by its name, with its defaults.

    Print the recipe to see its parts and when they act.

    Args:
        name: `"attenuation"` or another of `kprune.recipes.names()`.
        reduce: Share of each cost to remove. See `kprune.prune`. Defaults to
            `{"macs": 0.5}`.
        data: Samples for criteria and allocations that run the model. See
            `kprune.prune`. The attribute `needs` of a recipe says whether it
            needs them, and whether with labels: training data `(x, y)`.
        epochs: Number of epochs that `fit` will run, fine-tuning included.
        recover: How to repair the remaining layers after filters are removed and
            before training continues: `"reconstruct"` or another of
            `kprune.recovery.names()`. See `kprune.prune`. Needs `data`.
        run_dir: Folder in which each `fit` makes a new folder for its run. See
            `kprune.prune`.
        **parts: Parts to replace, by the names in the recipe's `defaults`:
            `criterion="taylor"`, `allocation="uniform"`,
            `schedule=kprune.Linear(end=20)` and so on.

    Returns:
        A `kprune.recipes.Recipe`. Its `prepare(model)` returns the model to train
        and its `callbacks` go to `fit`.

    Raises:
        ValueError: The name or a part is unknown, needed data is missing, or
            there are too few epochs.
        TypeError: `name` is a recipe already.

    Example:

    ```python
    r = kprune.recipe("attenuation", reduce={"macs": 0.5}, epochs=30)
    masked = r.prepare(model)
    masked.fit(train, epochs=30, callbacks=r.callbacks)
    compact = kprune.rebuild(masked)
    ```
    """
    if isinstance(name, Recipe):
        raise TypeError(
            f"{name!r} is a recipe already. Use it, or pass a name: "
            f"kprune.recipe('{name.name}', epochs={name.epochs})."
        )
    made: Recipe = registry.get(
        name,
        reduce=reduce,
        data=data,
        epochs=epochs,
        recover=recover,
        run_dir=run_dir,
        **parts,
    )
    return made


def names() -> list[str]:
    """Return the names of all recipes."""
    return registry.names
