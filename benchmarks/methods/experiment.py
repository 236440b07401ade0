"""One run: prune, train and measure a pretrained network."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import arms
import data
import keras
import numpy as np

import kprune
from kprune import binary
from kprune.data import normalize_cifar10
from kprune.masking import acting_gates
from kprune.masking import close_gates
from kprune.parts import code
from kprune.report.measure import accuracy
from kprune.report.measure import predict
from kprune.report.measure import relative_difference
from kprune.session.dynamic import dynamic_cost

BATCH = 1000
"""Batch size for inference."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Options that all arms of a comparison share."""

    depth: int = 20
    scope: str = "all"
    epochs: int = 4
    images: int = 20000
    batch_size: int = 128
    learning_rate: float = 0.02
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    calibration: int = 1024
    padding: int = data.PADDING

    @property
    def name(self) -> str:
        return f"resnet{self.depth}-{self.scope}-{self.epochs}x{self.images}"

    @property
    def prepare(self) -> Callable[[Any], Any]:
        """The function that turns images into inputs of the network."""
        return data.raw if self.depth == 8 else normalize_cifar10

    @property
    def steps(self) -> int:
        return self.images // self.batch_size

    def optimizer(self) -> keras.optimizers.Optimizer:
        """Return the optimizer: `sgd`, unless a series overrides this."""
        return sgd(self)

    def config(self) -> dict[str, Any]:
        """Return the setting in a readable form for the result file."""
        fields = dataclasses.asdict(self)
        padding = fields.pop("padding")
        return {
            **fields,
            "steps_per_epoch": self.steps,
            "images_per_epoch": self.steps * self.batch_size,
            "optimizer": "SGD",
            "schedule": "cosine to 0 over all steps",
            "augmentation": data.augmentation(padding),
            "data": {
                "training": "train, drawn anew in each epoch",
                "calibration": "train, drawn once per seed, no augmentation",
                "each_epoch": "test[:5000]",
                "final": ["test[5000:]", "test"],
            },
        }


def sgd(setting: Setting, warmup: int = 0) -> keras.optimizers.Optimizer:
    """Return SGD whose rate falls along a cosine to 0.

    Args:
        setting: The setting.
        warmup: Number of epochs in which the rate rises from 0 first.
    """
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else setting.learning_rate,
        max(setting.epochs - warmup, 1) * setting.steps,
        warmup_target=setting.learning_rate if warmup else None,
        warmup_steps=warmup * setting.steps,
    )
    return keras.optimizers.SGD(
        rate,
        momentum=setting.momentum,
        nesterov=setting.nesterov,
        weight_decay=setting.weight_decay,
    )


def compile_model(
    model: keras.Model,
    setting: Setting,
    optimizer: keras.optimizers.Optimizer | None = None,
    one_hot: bool = False,
) -> None:
    """Compile for training on labels, with the setting's optimizer or another one."""
    losses = keras.losses
    sparse, dense = (
        losses.SparseCategoricalCrossentropy,
        losses.CategoricalCrossentropy,
    )
    # XLA makes TensorFlow slower here on CPU; JAX always uses it.
    tensorflow = keras.config.backend() == "tensorflow"
    model.compile(
        optimizer or setting.optimizer(),
        (dense if one_hot else sparse)(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False if tensorflow else "auto",
    )


class Watch(keras.callbacks.Callback):
    """Measures the accuracy after each epoch, and whenever filters were removed.

    List it after the callbacks that prune.
    """

    def __init__(self, full: Any, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__()
        self.epochs: list[dict[str, Any]] = []
        self.removals: list[dict[str, Any]] = []
        self._full = full
        self._macs = full.macs
        self._x = x
        self._y = y
        self._start = 0.0

    def accuracy(self) -> float:
        return percent(accuracy(predict(self.model, self._x, BATCH), self._y))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        macs = kprune.cost(self.model).macs
        if macs != self._macs:
            self._macs = macs
            self.removals.append(
                {
                    "before_epoch": epoch + 1,
                    "macs_removed": removed(macs, self._full.macs),
                    "accuracy": self.accuracy(),
                }
            )
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        seconds = time.perf_counter() - self._start
        cost = kprune.cost(self.model)
        row = {
            "epoch": epoch + 1,
            "accuracy": self.accuracy(),
            "macs_removed": removed(cost.macs, self._full.macs),
            "params_removed": removed(cost.params, self._full.params),
            "training_loss": round(float(logs["loss"]), 5),
            "training_accuracy": percent(float(logs["accuracy"])),
            "seconds": round(seconds, 2),
        }
        self.epochs.append(row)
        print(
            f"  epoch {row['epoch']}: {row['accuracy']:.2f} %, "
            f"{row['macs_removed']:.1%} of the MACs removed, {seconds:.0f} s",
            flush=True,
        )


def percent(share: float) -> float:
    return round(100 * share, 3)


def removed(left: float, full: float) -> float:
    return round(1 - left / full, 5)


def score(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the top-1 accuracy in percent on each slice of test."""
    return {
        "test[:5000]": percent(
            accuracy(scores[data.CHOICE], labels[data.CHOICE])
        ),
        "test[5000:]": percent(
            accuracy(scores[data.REPORT], labels[data.REPORT])
        ),
        "test": percent(accuracy(scores, labels)),
    }


class Bench:
    """The pretrained network and the images of one setting."""

    def __init__(
        self, setting: Setting, images: data.Images, model: keras.Model
    ) -> None:
        self.setting = setting
        self.images = images
        self.model = model
        self.cost = kprune.cost(model)
        self._curves: dict[int, kprune.Sensitivity] = {}
        self.x_test = setting.prepare(images.x_test)
        self.baseline = score(predict(model, self.x_test, BATCH), images.y_test)

    def skip(self) -> list[str] | None:
        """Return the layers not to prune. Scope "inner" keeps the residual stream."""
        if self.setting.scope == "all":
            return None
        names = [layer.name for layer in self.model.layers]
        return [n for n in names if n == "conv1" or n.endswith("conv2")]

    def calibration(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(self.images.x_train))
        chosen = np.sort(chosen[: self.setting.calibration])
        x = self.setting.prepare(self.images.x_train[chosen])
        return x, self.images.y_train[chosen]

    def masked(self) -> keras.Model:
        """Return a copy of the network to prune and train."""
        masked = kprune.wrap(self.model, self.skip())
        compile_model(masked, self.setting)
        return masked

    def curves(self, seed: int) -> kprune.Sensitivity:
        """Return the cost of removing filters of each group, measured only once."""
        if seed not in self._curves:
            self._curves[seed] = kprune.sensitivity(
                self.masked(), self.calibration(seed)
            )
        return self._curves[seed]

    def run(self, name: str, target: float, seed: int) -> dict[str, Any]:
        """Prune and train once, and return the result to write."""
        setting, images = self.setting, self.images
        recipe = arms.ARMS[name].recipe(
            {"macs": target} if target else {},
            self.calibration(seed),
            arms.Run(setting.epochs, seed, lambda: self.curves(seed)),
        )
        keras.utils.set_random_seed(seed)
        start = time.perf_counter()
        masked = recipe.prepare(self.masked())
        prepared = time.perf_counter()
        watch = Watch(
            self.cost,
            self.x_test[data.CHOICE],
            images.y_test[data.CHOICE],
        )
        masked.fit(
            data.training(images, setting, seed),
            epochs=setting.epochs,
            callbacks=[*recipe.callbacks, watch],
            shuffle=False,
            verbose=0,
        )
        fitted = time.perf_counter()
        dynamic = self._dynamic(masked)
        compact = kprune.rebuild(masked)
        scores = predict(compact, self.x_test, BATCH)
        expected = predict(masked, self.x_test, BATCH)
        cost = kprune.cost(compact)
        return {
            "arm": name,
            "title": arms.ARMS[name].title,
            "order": list(arms.ARMS).index(name),
            "target": {"macs": target},
            "seed": seed,
            "setting": setting.config(),
            "recipe": recipe.name,
            "parts": {n: code(v) for n, v in recipe.parts.items()},
            "baseline": self.baseline,
            "removals": watch.removals,
            "epochs": watch.epochs,
            "final": score(scores, images.y_test),
            "macs": self._cost(cost, "macs"),
            "params": self._cost(cost, "params"),
            "memory": self._memory(compact),
            **dynamic,
            "kept": {
                group: int((mask > 0).sum())
                for group, mask in kprune.masks(masked).items()
            },
            "masked_to_compact": {
                "relative_difference": relative_difference(expected, scores),
                "other_labels": int(
                    (expected.argmax(-1) != scores.argmax(-1)).sum()
                ),
            },
            "seconds": {
                "prepare": round(prepared - start, 2),
                "fit": round(fitted - prepared, 2),
            },
            "versions": versions(),
        }

    def _dynamic(self, masked: keras.Model) -> dict[str, Any]:
        """Measure gates that depend on the sample, then turn them into masks."""
        if not acting_gates(masked):
            return {}
        scores = predict(masked, self.x_test, BATCH)
        cost = dynamic_cost(masked, self.x_test[data.REPORT][:1000])
        close_gates(masked)
        return {
            "dynamic": {
                "final": score(scores, self.images.y_test),
                "mean_macs": self._cost(cost, "macs"),
            }
        }

    def _memory(self, compact: keras.Model) -> dict[str, float]:
        """Return the theoretical bytes of the weights. See `kprune.binary.figures`."""
        before = binary.figures(self.model).plain / 8
        after = binary.figures(compact).bits / 8
        return {
            "before": before,
            "after": after,
            "removed": removed(after, before),
        }

    def _cost(self, cost: Any, key: str) -> dict[str, float]:
        before, after = getattr(self.cost, key), getattr(cost, key)
        return {
            "before": before,
            "after": after,
            "removed": removed(after, before),
        }


def versions() -> dict[str, str]:
    backend = keras.config.backend()
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "kprune": kprune.__version__,
        "keras": keras.__version__,
        backend: sys.modules[backend].__version__,
        "numpy": np.__version__,
        "device": keras.distribution.list_devices()[0].split(":")[0],
    }
