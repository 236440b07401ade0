"""Prune ResNet-8, then train it on labels and with the unpruned network as teacher.

Each run is one of `benchmarks/headline` on the network of the suite: the network is
pruned at once, repaired on unlabelled images, rebuilt and trained. The results are the
int8 file after the last epoch, and the one after quantisation-aware training.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from types import ModuleType
from typing import Any

# Appended, not inserted: each of these folders has a module `run`, too.
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
    """Return `benchmarks/headline/run.py`, whose module name is not unique."""
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
"""Divisor of the inputs in training; the first kernel is multiplied by it.

The network takes pixels from 0 to 255. With smaller inputs and a larger first kernel it
is the same function, but the weights of all layers have similar magnitudes.
"""


@dataclasses.dataclass(frozen=True)
class Setting(points.Setting):
    """Options that all runs share. See `benchmarks/headline/points.py`.

    `qat` is the number of epochs of quantisation-aware training at the end, on all
    images without augmentation, and `qat_rate` its constant learning rate; 0 epochs for
    none. `padding` is smaller than in the other benchmarks: with 4, so small a network
    is less accurate on the augmented training images than on the test images.
    """

    depth: int = 8
    epochs: int = 45
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    warmup: int = 1
    padding: int = 1
    qat: int = 1
    qat_rate: float = 1e-4

    @property
    def prepare(self) -> Callable[[Any], Any]:
        return lambda images: data.raw(images) / PIXELS

    def config(self) -> dict[str, Any]:
        return {**super().config(), "padding": self.padding}


@dataclasses.dataclass(frozen=True)
class DeviceArm(points.Arm):
    """A way of pruning for Vela's estimates.

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
    """Pruning to the widths from `widths.py`: the most MACs within the NPU's limits.

    Args:
        widths: Number of channels that each group keeps.
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
    """A way of pruning for MACs, with widths that are multiples of 8."""

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
"""Shares to remove of Vela's time and SRAM."""

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
    """Return a copy that takes inputs divided by a factor."""
    copy = _copy(model)
    kernel = next(layer for layer in copy.layers if layer.weights).kernel
    kernel.assign(kernel * factor)
    return copy


def as_published(logits: keras.Model) -> keras.Model:
    """Return the network as published, with pixels as input and softmax as output."""
    model = scaled(logits, 1 / PIXELS)
    model.layers[-1].activation = keras.activations.softmax
    return _copy(model)


class Bench(_headline().Bench):  # type: ignore[misc]
    """The network of the suite and CIFAR-10.

    Args:
        setting: A `Setting`.
        images: CIFAR-10.
        model: The network, from pixels to logits.
        checkpoints: Folder for the checkpoints of runs.
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
        if self.setting.qat:
            found["qat"] = self.file(compact, task.seed, self.aware())
        return found

    def aware(self) -> dict[str, Any]:
        """Return the options of `kprune.export` for quantisation-aware training."""
        setting, images = self.setting, self.images
        first = setting.images
        return {
            "quantize": "qat",
            "data": (data.raw(images.x_train[:first]), images.y_train[:first]),
            "epochs": setting.qat,
            "learning_rate": setting.qat_rate,
        }

    def file(
        self,
        logits: keras.Model,
        seed: int,
        options: Mapping[str, Any] = MappingProxyType({"quantize": "int8"}),
    ) -> dict[str, Any]:
        """Return the accuracy and costs of the int8 file of a network."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            x, _ = self.calibration(seed)
            model = as_published(logits)
            model.compile(loss="sparse_categorical_crossentropy")
            kprune.export(
                model,
                path,
                calibration=PIXELS * x,
                io_dtype="int8",
                **options,
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
    """Return the runs of some arms, at their own targets unless others are given."""
    chosen = [
        points.Point(arm, target)
        for arm in arms
        for target in targets or ARMS[arm].reduce
    ]
    return points.tasks(chosen, seeds, setting, results)


__all__ = ["ARMS", "GATE", "Bench", "Setting", "data", "tasks"]
