"""What is run: ways of pruning, targets, and the name of each run."""

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
    """What is equal for all runs of one call.

    `mixup` is the parameter of the beta distribution that shares are drawn
    from; 0 leaves the images as they are.
    """

    depth: int = 56
    epochs: int = 40
    images: int = 50000
    mixup: float = 0.0

    @property
    def suffix(self) -> str:
        """What differs from the defaults, beside the number of epochs."""
        fields = [f for f in dataclasses.fields(self) if f.name != "epochs"]
        different = [
            f"-{f.name}{getattr(self, f.name):g}"
            for f in fields
            if getattr(self, f.name) != f.default
        ]
        return "".join(different).replace("_", "")

    def config(self) -> dict[str, Any]:
        found = super().config()
        found["teacher"] = {
            "model": "the unpruned network",
            "loss": "half labels, half Kullback-Leibler of softened outputs",
            "temperature": TEMPERATURE,
        }
        return found


class MeasuredOnce(kprune.recovery.OutputError):
    """Shares per group by what the outputs notice, for several targets.

    What is measured is the same for all targets, and takes most of the time.
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
        reduce: Share of each cost to remove, unless another is asked for.
        recipe: Name of the recipe of kprune by which filters go during the
            first part of training, or `None` if they go before.
        random: Whether chance decides which filters go.
        recover: How the filters that stay are repaired, as of `kprune.prune`.
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
        """Return the model pruned at once, on images without labels."""
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
        """Return criterion, allocation and targets, as of `kprune.prune`.

        Args:
            model: The model to prune.
            reduce: What is asked for.
            seed: Of what is random.
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
    """A way of pruning, how far, and whether the unpruned network teaches."""

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
"""Those that are run if nothing else is said, in this order."""


def points(
    letters: Iterable[str], arms: Iterable[str], macs: Iterable[float]
) -> list[Point]:
    """Return the points by their letters, or those of arms.

    Args:
        letters: Keys of `POINTS`.
        arms: Names or patterns of `ARMS`; if there are any, `letters` do not
            count.
        macs: Shares of the MACs to remove, in place of an arm's targets.
    """
    patterns = list(arms)
    if not patterns:
        return [point for letter in letters for point in POINTS[letter]]
    found = []
    for pattern in patterns:
        names = fnmatch.filter(ARMS, pattern)
        if not names:
            raise ValueError(
                f"No arm fits {pattern!r}. There are: {', '.join(ARMS)}."
            )
        for name in names:
            targets = [{"macs": share} for share in macs]
            for target in targets or ARMS[name].reduce:
                found.append(Point(name, target))
    return found


@dataclasses.dataclass(frozen=True)
class Task:
    """One run, and the file that tells of it."""

    point: Point
    seed: int
    path: Path

    def done(self, setting: Setting) -> bool:
        """Whether the file is there; an error if it is of another setting."""
        return common.done(self.path, setting.config())


def tasks(
    chosen: Iterable[Point],
    seeds: Iterable[int],
    setting: Setting,
    results: Path,
) -> list[Task]:
    """All runs that were asked for, seed by seed."""
    found: dict[Path, Task] = {}
    chosen = list(chosen)
    for seed in seeds:
        for point in chosen:
            length = f"{setting.epochs}epochs{setting.suffix}"
            path = results / f"{point.name}-{length}-{seed}.json"
            found.setdefault(path, Task(point, seed, path))
    return list(found.values())
