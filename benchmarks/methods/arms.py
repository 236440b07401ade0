"""The ways of pruning to compare, one entry each, composed of parts of kprune.

All get the same pretrained network, images, epochs, optimizer and learning rates; an
entry defines only how filters are removed. Two entries that a claim compares (see
`claims.py`) differ in as little as possible.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import keras

import kprune
from kprune.binary import BinaryFilters
from kprune.callbacks import Merge
from kprune.callbacks import PruneCallback
from kprune.callbacks import SoftPruneCallback
from kprune.criteria import Folded
from kprune.criteria import Random
from kprune.duplication import Copies
from kprune.duplication import Split
from kprune.duplication import Tolerance
from kprune.duplication import duplicate
from kprune.pruning import WITH_DATA
from kprune.recipes import Recipe
from kprune.recipes._timing import removal_epoch
from kprune.schedules import Constant
from kprune.schedules import OneShot


class Unpruned(Recipe):
    """Trains without pruning, to show the effect of training alone."""

    name = "unpruned"
    fewest_epochs = 1
    defaults: Mapping[str, Any] = {}

    def actions(self) -> list[keras.callbacks.Callback]:
        return []


class Hard(Recipe):
    """Removes all filters for good before the first epoch."""

    name = "hard"
    fewest_epochs = 1

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": "l1",
            "allocation": "global",
            "schedule": OneShot(),
        }

    def actions(self) -> list[keras.callbacks.Callback]:
        return [PruneCallback(**self.parts, **self.task)]


class Soft(Recipe):
    """Sets weak filters to 0 before each epoch; they may return."""

    name = "soft"

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": Folded("l1"),
            "allocation": "uniform",
            "schedule": Constant(end=removal_epoch(self.epochs)),
            "target": "scale",
        }

    def actions(self) -> list[keras.callbacks.Callback]:
        return [SoftPruneCallback(**self.parts, **self.task)]


class MergedAtOnce(Recipe):
    """Replaces filters by copies of others and merges these before training."""

    name = "merged at once"
    fewest_epochs = 1

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": "l1",
            "allocation": "tolerance",
            "copies": Copies(donors="nearest", consumers="absorb"),
        }

    def prepare(self, model: keras.Model) -> keras.Model:
        masked = super().prepare(model)
        duplicate(masked, **self.parts, **self.task)
        return kprune.wrap(kprune.rebuild(masked))

    def actions(self) -> list[keras.callbacks.Callback]:
        return []


@dataclasses.dataclass(frozen=True)
class Run:
    """Properties of a run that an entry may depend on.

    Args:
        epochs: Number of epochs.
        seed: Seed of the run.
        curves: Function that returns the cost of removing filters of each group.
            Without it, arms measure that cost themselves.
    """

    epochs: int
    seed: int
    curves: Callable[[], kprune.Sensitivity] | None = None

    def tolerance(self) -> Tolerance:
        """Return the allocation of the duplication arms.

        Its measurements are the same for all of them, so they are made only once.
        """
        return Tolerance(curves=self.curves and self.curves())

    @property
    def copied(self) -> int:
        """The number of epochs that train with copies."""
        return max(1, self.epochs // 3)


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way of pruning.

    Args:
        title: Title in tables.
        base: Name of a recipe of kprune, or a class above.
        parts: Function of a `Run` that returns the parts of the recipe that differ
            from its defaults. They are made anew for each run, since some draw random
            numbers.
        control: Whether it serves only as a control for other arms.
        whole: Whether it removes no MACs, so that one target is enough.
    """

    title: str
    base: str | type[Recipe]
    parts: Callable[[Run], dict[str, Any]] = lambda run: {}
    control: bool = False
    whole: bool = False

    def recipe(
        self, reduce: Mapping[str, float], data: Any, run: Run
    ) -> Recipe:
        task = {"reduce": reduce, "data": data, "epochs": run.epochs}
        if isinstance(self.base, str):
            return kprune.recipe(self.base, **task, **self.parts(run))
        return self.base(**task, **self.parts(run))


def _parting(run: Run, consumers: Any) -> dict[str, Any]:
    """Return parts that let copies diverge, then remove similar filters."""
    return {
        "allocation": run.tolerance(),
        "copies": Copies(consumers=consumers),
        "merge": Merge(
            run.copied, criterion="similarity", allocation="similarity"
        ),
    }


def _later(**parts: Any) -> Callable[[Run], dict[str, Any]]:
    """Return parts that remove filters when the one-shot recipes do so."""
    return lambda run: {"schedule": OneShot(removal_epoch(run.epochs)), **parts}


UNPRUNED = "unpruned"
BEST = WITH_DATA._asdict()

# The letters are those of the duplication experiment. See the page.
ARMS = {
    UNPRUNED: Arm("not pruned", Unpruned, control=True, whole=True),
    "hard-uniform-l1": Arm(
        "hard, uniform, L1 (A)", Hard, lambda run: {"allocation": "uniform"}
    ),
    "hard-global-l1": Arm("hard, global, L1", Hard),
    "hard-global-taylor": Arm(
        "hard, global, Taylor", Hard, lambda run: {"criterion": "taylor"}
    ),
    "hard-global-folded-l1": Arm(
        "hard, global, L1 with BN folded in",
        Hard,
        lambda run: {"criterion": Folded("l1")},
        control=True,
    ),
    "iterative-global-l1": Arm(
        "hard in rounds, global, L1",
        "similarity",
        lambda run: {"criterion": "l1", "allocation": "global"},
        control=True,
    ),
    "later-global-l1": Arm(
        "hard at a third, global, L1", Hard, _later(), control=True
    ),
    "later-global-folded-l1": Arm(
        "hard at a third, global, L1 with BN folded in",
        Hard,
        _later(criterion=Folded("l1")),
        control=True,
    ),
    "later-uniform-folded-l1": Arm(
        "hard at a third, uniform, L1 with BN folded in",
        Hard,
        _later(criterion=Folded("l1"), allocation="uniform"),
        control=True,
    ),
    "random": Arm(
        "random filters",
        Hard,
        lambda run: {"criterion": Random(run.seed)},
        control=True,
    ),
    "later-random": Arm(
        "random filters, at a third",
        Hard,
        lambda run: _later(criterion=Random(run.seed))(run),
        control=True,
    ),
    "best": Arm("the default with data (best path)", "refit"),
    "later-best": Arm(
        "the default with data, at a third", Hard, _later(**BEST), control=True
    ),
    "later-global-l1-repaired": Arm(
        "hard at a third, global, L1, repaired",
        Hard,
        _later(recover="reconstruct"),
        control=True,
    ),
    "soft": Arm("soft (SFP), uniform, L1 with BN folded in", Soft),
    "attenuation": Arm("attenuation", "attenuation"),
    "similarity": Arm("similarity, hard", "similarity"),
    "similarity-soft": Arm("similarity, soft", "similarity-soft"),
    "msvfp": Arm("MSVFP", "msvfp"),
    "hgs": Arm("HGS + loss increase", "hgs"),
    "bn-importance": Arm("batch normalisation alone", "bn-importance"),
    "orthoreg": Arm("OrthoReg", "orthoreg"),
    "filtersketch": Arm("FilterSketch", "filtersketch"),
    "snpfi": Arm("SNPFI", "snpfi"),
    "ascp": Arm("ASCP", "ascp"),
    "kdfs": Arm("KDFS", "kdfs"),
    "scop": Arm("SCOP", "scop"),
    "manidp": Arm("ManiDP, its static model", "manidp"),
    "network-adjustment": Arm("Network Adjustment", "network-adjustment"),
    "network-adjustment-same": Arm(
        "Network Adjustment, the same MACs", "network-adjustment", whole=True
    ),
    "cross-filter": Arm(
        "cross-filter, a scale for 4 filters", "cross-filter", whole=True
    ),
    "cross-filter-each": Arm(
        "binary filters, a scale for each",
        "cross-filter",
        lambda run: {"form": BinaryFilters(1)},
        control=True,
        whole=True,
    ),
    "duplication-b": Arm(
        "tolerance + hard L1 (B)",
        Hard,
        lambda run: {"allocation": run.tolerance()},
    ),
    "duplication-c": Arm(
        "duplication, tied copies (C)",
        "duplication",
        lambda run: {
            "allocation": run.tolerance(),
            "merge": Merge(run.copied),
        },
    ),
    "duplication-d": Arm(
        "duplication, parting copies + similarity (D)",
        "duplication",
        lambda run: _parting(run, Split("random", seed=run.seed)),
    ),
    "duplication-e": Arm(
        "duplication, naive copies + similarity (E)",
        "duplication",
        lambda run: _parting(run, "naive"),
    ),
    "duplication-f": Arm(
        "duplication, absorb (F)",
        MergedAtOnce,
        lambda run: {"allocation": run.tolerance()},
    ),
}

# A recipe without an entry of its own runs with its defaults.
for _name in kprune.recipes.names():
    if all(arm.base != _name for arm in ARMS.values()):
        ARMS[_name] = Arm(_name, _name)


def find(patterns: Iterable[str]) -> list[str]:
    """Return the names of the arms that match patterns such as `duplication-*`."""
    found: dict[str, None] = {}
    for pattern in patterns:
        matching = fnmatch.filter(ARMS, pattern)
        if not matching:
            raise ValueError(
                f"No arm matches {pattern!r}. Available: {', '.join(ARMS)}."
            )
        found.update(dict.fromkeys(matching))
    return list(found)
