"""ResNet-8 pruned, then trained by labels and by the network it was.

A run of `benchmarks/headline` on the network of the suite: pruned at once, repaired on
unlabelled images, rebuilt, and the small network trained. What counts is the int8 file
after the last epoch.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

# Last: these folders have a `run` each, too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "headline"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "methods"))

import data
import experiment
import keras
import points
import suite
import training

import kprune
from kprune.export.runtime import LiteRT
from kprune.latency import Latency


def _headline() -> ModuleType:
    """Return `benchmarks/headline/run.py`, whose name others have as well."""
    if "headline_run" not in sys.modules:
        path = Path(__file__).resolve().parents[1] / "headline" / "run.py"
        spec = importlib.util.spec_from_file_location("headline_run", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is missing.")
        module = importlib.util.module_from_spec(spec)
        sys.modules["headline_run"] = module
        spec.loader.exec_module(module)
    return sys.modules["headline_run"]


PIXELS = 128.0
"""The network takes pixels from 0 to 255. It is trained on that part of them, with a
first kernel as many times as large: the same function, whose layers are all of a size.
"""


@dataclasses.dataclass(frozen=True)
class Setting(points.Setting):
    """What is equal for all runs. See `benchmarks/headline/points.py`."""

    depth: int = 8
    epochs: int = 30
    images: int = 25000
    learning_rate: float = 3e-3
    weight_decay: float = 0.0

    @property
    def prepare(self) -> Callable[[Any], Any]:
        return lambda images: data.raw(images) / PIXELS

    def optimizer(self) -> keras.optimizers.Optimizer:
        rate = keras.optimizers.schedules.CosineDecay(
            self.learning_rate, self.epochs * self.steps
        )
        return keras.optimizers.Adam(rate)

    def config(self) -> dict[str, Any]:
        found = super().config()
        for other in ("momentum", "nesterov", "weight_decay"):
            del found[other]
        return {**found, "optimizer": "Adam"}


@dataclasses.dataclass(frozen=True)
class DeviceArm(points.Arm):
    """A way of pruning for what Vela says.

    Args:
        runtime: Name of a runtime of kprune.
    """

    runtime: str = "ethos-u55-128"

    def parts(
        self,
        model: keras.Model,
        reduce: Mapping[str, float],
        seed: int,
        best: Any,
    ) -> dict[str, Any]:
        found = super().parts(model, reduce, seed, best)
        device = Latency(runtime=self.runtime, allocation=found["allocation"])
        return {**found, "allocation": device}


@dataclasses.dataclass(frozen=True)
class WidthsArm(points.Arm):
    """Pruning to the widths of `widths.py`: the most MACs that fit the NPU.

    Args:
        widths: Channels that each group keeps.
    """

    widths: tuple[int, ...] = (5, 8, 32, 32, 64, 32)

    def parts(
        self,
        model: keras.Model,
        reduce: Mapping[str, float],
        seed: int,
        best: Any,
    ) -> dict[str, Any]:
        groups = kprune.trace(kprune.wrap(model)).prunable
        shares = {
            group.name: 1 - kept / group.size
            for group, kept in zip(groups, self.widths, strict=True)
        }
        return {"criterion": "reconstruction", "allocation": shares}


@dataclasses.dataclass(frozen=True)
class RoundedArm(points.Arm):
    """A way of pruning for MACs, in widths that are multiples of 8."""

    def parts(
        self,
        model: keras.Model,
        reduce: Mapping[str, float],
        seed: int,
        best: Any,
    ) -> dict[str, Any]:
        rounded = kprune.allocation.Global(round_to=8)
        return super().parts(model, reduce, seed, rounded)


GATE = {"latency": 0.4, "ram": 0.4}
"""What is to be gone of the time and of the SRAM that Vela says."""

ARMS = {
    "widest": WidthsArm((GATE,)),
    "npu": DeviceArm((GATE,)),
    "macs": points.Arm(({"macs": 0.65},)),
    "macs-round8": RoundedArm(({"macs": 0.65},)),
}
points.ARMS.update(ARMS)


def _copy(model: keras.Model) -> keras.Model:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def scaled(model: keras.Model, factor: float) -> keras.Model:
    """Return a copy that takes inputs which are smaller by a factor."""
    copy = _copy(model)
    kernel = next(layer for layer in copy.layers if layer.weights).kernel
    kernel.assign(kernel * factor)
    return copy


def as_published(logits: keras.Model) -> keras.Model:
    """Return the network as the suite has it: raw pixels in, softmax at its end."""
    model = scaled(logits, 1 / PIXELS)
    model.layers[-1].activation = keras.activations.softmax
    return _copy(model)


class Bench(_headline().Bench):  # type: ignore[misc]
    """The network of the suite and CIFAR-10.

    Args:
        setting: A `Setting`.
        images: CIFAR-10.
        model: The network, of raw pixels, giving logits.
        checkpoints: Folder for the state of runs.
    """

    def __init__(
        self,
        setting: Setting,
        images: data.Images,
        model: keras.Model,
        checkpoints: Path,
    ) -> None:
        super().__init__(setting, images, scaled(model, PIXELS), checkpoints)

    def result(
        self,
        task: points.Task,
        compact: keras.Model,
        progress: training.Progress,
    ) -> dict[str, Any]:
        found = super().result(task, compact, progress)
        files = {
            "before": self.file(self.model, task.seed),
            "after": self.file(compact, task.seed),
        }
        found["int8"] = {
            key: {when: row[key] for when, row in files.items()}
            for key in files["after"]
        }
        return found

    def file(self, logits: keras.Model, seed: int) -> dict[str, Any]:
        """Return what there is to say of the int8 file of a network."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            x, _ = self.calibration(seed)
            kprune.export(
                as_published(logits),
                path,
                quantize="int8",
                calibration=PIXELS * x,
                io_dtype="int8",
            )
            runtime = LiteRT(path)
            name = runtime.inputs[0].name
            (scores,) = runtime.run_batched(
                {name: PIXELS * self.x_test}
            ).values()
            score = experiment.score(scores, self.images.y_test)
            return {"accuracy": score, **suite.figures(path.read_bytes())}


def tasks(
    arms: list[str],
    targets: list[Mapping[str, float]],
    seeds: list[int],
    setting: Setting,
    results: Path,
) -> list[points.Task]:
    """Return the runs of some arms, each at its own targets unless given."""
    chosen = [
        points.Point(arm, target)
        for arm in arms
        for target in targets or ARMS[arm].reduce
    ]
    return points.tasks(chosen, seeds, setting, results)


__all__ = ["ARMS", "GATE", "Bench", "Setting", "data", "tasks"]
