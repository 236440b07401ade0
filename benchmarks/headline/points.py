"""The runs of the benchmark: ways of pruning, targets, and a name for each run."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common
import experiment
import keras

import kprune
from kprune import Session
from kprune.allocation import Request
from kprune.criteria import Random

TEMPERATURE = 4.0


@dataclasses.dataclass(frozen=True)
class Setting(experiment.Setting):
    """Options that all runs of one call share.

    `mixup` is the parameter of the beta distribution of the mixing shares; 0 turns
    mixup off. `warmup` is the number of epochs in which the learning rate rises first;
    at a high rate from the start, training would undo the repair.
    """

    depth: int = 56
    epochs: int = 40
    images: int = 50000
    mixup: float = 0.0
    warmup: int = 0

    def optimizer(self) -> keras.optimizers.Optimizer:
        return experiment.sgd(self, self.warmup)

    @property
    def suffix(self) -> str:
        """The options that differ from the defaults, except the number of epochs."""
        fields = [f for f in dataclasses.fields(self) if f.name != "epochs"]
        different = [
            f"-{f.name}{getattr(self, f.name):g}"
            for f in fields
            if getattr(self, f.name) != f.default
        ]
        return "".join(different).replace("_", "")

    def config(self) -> dict[str, Any]:
        found = super().config()
        if self.warmup:
            rise = f"linear from 0 in {self.warmup} epochs"
            found["schedule"] = f"{rise}, then cosine to 0"
        found["teacher"] = {
            "model": "the unpruned network",
            "loss": "half labels, half Kullback-Leibler of softened outputs",
            "temperature": TEMPERATURE,
        }
        return found


class MeasuredOnce(kprune.recovery.OutputError):
    """The allocation `OutputError`, measured once for several targets.

    The measured curves are the same for all targets and take most of the time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._curves: list[Any] | None = None

    def curves(self, request: Request, session: Session | None) -> list[Any]:
        if self._curves is None:
            self._curves = super().curves(request, session)
        return self._curves


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way of pruning.

    Args:
        reduce: Default share to remove of each cost.
        recipe: Name of the kprune recipe that removes filters in the first part of
            training, or `None` to remove them before training.
        random: Whether filters are chosen at random.
        recover: How to repair the remaining filters. See `kprune.prune`.
    """

    reduce: tuple[Mapping[str, float], ...]
    recipe: str | None = None
    random: bool = False
    recover: str | None = "reconstruct"

    def prune(
        self,
        model: keras.Model,
        reduce: Mapping[str, float],
        x: Any,
        seed: int,
        allocation: MeasuredOnce | None = None,
    ) -> keras.Model:
        """Return the model, pruned at once on images without labels."""
        return kprune.prune(
            model,
            data=x,
            recover=self.recover,
            **self.parts(model, reduce, seed, allocation or "output_error"),
        )

    def parts(
        self,
        model: keras.Model,
        reduce: Mapping[str, float],
        seed: int,
        best: Any,
    ) -> dict[str, Any]:
        """Return criterion, allocation and targets for `kprune.prune`.

        Args:
            model: The model to prune.
            reduce: Share to remove of each cost.
            seed: Seed of random choices.
            best: The allocation that measures the output error.
        """
        if self.random:
            chosen = {"criterion": Random(seed), "allocation": "global"}
        else:
            chosen = {"criterion": "reconstruction", "allocation": best}
        return {**chosen, "reduce": reduce}


HIGH = ({"macs": 0.65}, {"macs": 0.75})
ARMS = {
    "best": Arm(HIGH),
    "random": Arm(HIGH, random=True),
    "random-unrepaired": Arm(HIGH, random=True, recover=None),
    "similarity": Arm(({"macs": 0.611, "params": 0.583},), "similarity"),
    "msvfp": Arm(({"macs": 0.5},), "msvfp"),
}


@dataclasses.dataclass(frozen=True)
class Point:
    """A way of pruning, a target, and whether the unpruned network is the teacher."""

    arm: str
    reduce: Mapping[str, float]
    teacher: bool = True

    @property
    def name(self) -> str:
        target = "-".join(f"{k}{100 * v:.4g}" for k, v in self.reduce.items())
        return f"{self.arm}-{target}-{'teacher' if self.teacher else 'alone'}"


POINTS = {
    "b": [Point("best", HIGH[0])],
    "c": [Point("best", HIGH[1])],
    "e": [Point("random", target) for target in HIGH],
    "a": [
        Point("similarity", target, teacher)
        for target in ARMS["similarity"].reduce
        for teacher in (True, False)
    ],
    "d": [Point("msvfp", target) for target in ARMS["msvfp"].reduce],
}
"""Letters of the points that run by default, in this order."""


def points(
    letters: Iterable[str], arms: Iterable[str], macs: Iterable[float]
) -> list[Point]:
    """Return the points with the given letters, or those of the given arms.

    Args:
        letters: Keys of `POINTS`.
        arms: Names or patterns of `ARMS`. If given, `letters` are ignored.
        macs: Shares of the MACs to remove instead of the targets of an arm.
    """
    patterns = list(arms)
    if not patterns:
        return [point for letter in letters for point in POINTS[letter]]
    found = []
    for pattern in patterns:
        names = fnmatch.filter(ARMS, pattern)
        if not names:
            raise ValueError(
                f"No arm matches {pattern!r}. Available: {', '.join(ARMS)}."
            )
        for name in names:
            targets = [{"macs": share} for share in macs]
            for target in targets or ARMS[name].reduce:
                found.append(Point(name, target))
    return found


@dataclasses.dataclass(frozen=True)
class Task:
    """One run and its result file."""

    point: Point
    seed: int
    path: Path

    def done(self, setting: Setting) -> bool:
        """Return whether the file exists; raise if it has another setting."""
        return common.done(self.path, setting.config())


def tasks(
    chosen: Iterable[Point],
    seeds: Iterable[int],
    setting: Setting,
    results: Path,
) -> list[Task]:
    """Return all requested runs, seed by seed."""
    found: dict[Path, Task] = {}
    chosen = list(chosen)
    for seed in seeds:
        for point in chosen:
            length = f"{setting.epochs}epochs{setting.suffix}"
            path = results / f"{point.name}-{length}-{seed}.json"
            found.setdefault(path, Task(point, seed, path))
    return list(found.values())
