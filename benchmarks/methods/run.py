"""Pruning systems compared by experiment: CIFAR-10, pretrained ResNets.

    python benchmarks/methods/run.py --data-dir ../shared/data/tfds \\
        --weights ../shared/data/weights --epochs 4 --images 20000
    python benchmarks/methods/run.py --arms attenuation 'duplication-*' \\
        --target 0.5 --seeds 0 --data-dir DIR --weights DIR
    python benchmarks/methods/run.py --list       # what has been run, what not
    python benchmarks/methods/page.py             # docs/benchmarks.md

Each arm of `arms.py` prunes and trains the same network: the same images in the
same order and augmentation for the same seed, the same number of steps, the same
optimizer and learning rates. An epoch is `--images` training images, drawn anew
in each. Accuracy after each epoch is measured on `test[:5000]`, where choices may
be made; that of the compact model, which is what counts, once, on `test[5000:]`
and on all of test, after the last epoch.

Each run writes `results/RESNET-SCOPE-EPOCHSxIMAGES/ARM-TARGET-SEED.json`. What is
there is not run again, so a series that was stopped goes on where it was; files
of other options in the same place are an error.

It runs on any backend of Keras. Without TensorFlow, which reads the data set:

    python benchmarks/methods/run.py --data-dir DIR --save-images images
    KERAS_BACKEND=jax python benchmarks/methods/run.py --weights DIR \\
        --images-npz images/images_*.npz --depth 56 --epochs 40 --images 50000
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import arms
import data
import keras
import numpy as np

import kprune
from kprune.data import normalize_cifar10
from kprune.recipes.page import describe
from kprune.report.measure import accuracy
from kprune.report.measure import predict
from kprune.report.measure import relative_difference

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
EXAMPLES = HERE.parent.parent / "examples"

TARGETS = (0.5, 0.75)
SEEDS = (0, 1, 2)
BATCH = 1000
"""Images per step where nothing is trained."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is equal for all arms of a comparison."""

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

    @property
    def name(self) -> str:
        return f"resnet{self.depth}-{self.scope}-{self.epochs}x{self.images}"

    @property
    def steps(self) -> int:
        return self.images // self.batch_size

    def config(self) -> dict[str, Any]:
        """All of it, to be read by others."""
        return {
            **dataclasses.asdict(self),
            "steps_per_epoch": self.steps,
            "images_per_epoch": self.steps * self.batch_size,
            "optimizer": "SGD",
            "schedule": "cosine to 0 over all steps",
            "augmentation": data.AUGMENTATION,
            "data": {
                "training": "train, drawn anew in each epoch",
                "calibration": "train, drawn once per seed, no augmentation",
                "each_epoch": "test[:5000]",
                "final": ["test[5000:]", "test"],
            },
        }


def compile_model(model: keras.Model, setting: Setting) -> None:
    rate = keras.optimizers.schedules.CosineDecay(
        setting.learning_rate, setting.epochs * setting.steps
    )
    # XLA makes TensorFlow slower here, on CPU; JAX has nothing else.
    tensorflow = keras.config.backend() == "tensorflow"
    model.compile(
        keras.optimizers.SGD(
            rate,
            momentum=setting.momentum,
            nesterov=setting.nesterov,
            weight_decay=setting.weight_decay,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False if tensorflow else "auto",
    )


class Watch(keras.callbacks.Callback):
    """Accuracy after each epoch, and whenever filters have gone.

    To be listed behind the callbacks that prune.
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
            f"{row['macs_removed']:.1%} of the MACs gone, {seconds:.0f} s",
            flush=True,
        )


def percent(share: float) -> float:
    return round(100 * share, 3)


def removed(left: float, full: float) -> float:
    return round(1 - left / full, 5)


def score(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1 in percent on the slices of test."""
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
        self.x_test = normalize_cifar10(images.x_test)
        self.baseline = score(predict(model, self.x_test, BATCH), images.y_test)

    def skip(self) -> list[str] | None:
        """Layers that are not pruned: "inner" leaves the residual stream."""
        if self.setting.scope == "all":
            return None
        names = [layer.name for layer in self.model.layers]
        return [n for n in names if n == "conv1" or n.endswith("conv2")]

    def calibration(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(self.images.x_train))
        chosen = np.sort(chosen[: self.setting.calibration])
        x = normalize_cifar10(self.images.x_train[chosen])
        return x, self.images.y_train[chosen]

    def run(self, name: str, target: float, seed: int) -> dict[str, Any]:
        """Prune and train once; return what is to be written."""
        setting, images = self.setting, self.images
        keras.utils.set_random_seed(seed)
        start = time.perf_counter()
        recipe = arms.ARMS[name].recipe(
            {"macs": target} if target else {},
            self.calibration(seed),
            setting.epochs,
            seed,
        )
        masked = kprune.wrap(self.model, self.skip())
        compile_model(masked, setting)
        masked = recipe.prepare(masked)
        prepared = time.perf_counter()
        watch = Watch(
            self.cost,
            self.x_test[data.CHOICE],
            images.y_test[data.CHOICE],
        )
        masked.fit(
            data.training(images, setting.images, setting.batch_size, seed),
            epochs=setting.epochs,
            callbacks=[*recipe.callbacks, watch],
            shuffle=False,
            verbose=0,
        )
        fitted = time.perf_counter()
        compact = kprune.rebuild(masked)
        scores = predict(compact, self.x_test, BATCH)
        expected = predict(masked, self.x_test, BATCH)
        cost = kprune.cost(compact)
        return {
            "arm": name,
            "title": arms.ARMS[name].title,
            "target": {"macs": target},
            "seed": seed,
            "setting": setting.config(),
            "recipe": recipe.name,
            "parts": {n: describe(v) for n, v in recipe.parts.items()},
            "baseline": self.baseline,
            "removals": watch.removals,
            "epochs": watch.epochs,
            "final": score(scores, images.y_test),
            "macs": self._cost(cost, "macs"),
            "params": self._cost(cost, "params"),
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


@dataclasses.dataclass(frozen=True)
class Task:
    """One run, and the file that tells of it."""

    arm: str
    target: float
    seed: int
    path: Path

    def done(self, setting: Setting) -> bool:
        """Whether the file is there; an error if it is of another setting."""
        if not self.path.exists():
            return False
        there = json.loads(self.path.read_text())["setting"]
        wanted = setting.config()
        other = {
            k: there.get(k) for k, v in wanted.items() if there.get(k) != v
        }
        if other:
            raise ValueError(
                f"{self.path} was made with {other}, not "
                f"{ {k: wanted[k] for k in other} }. Use the same options, or "
                "another folder as --results."
            )
        return True


def tasks(options: argparse.Namespace, setting: Setting) -> list[Task]:
    """All runs that were asked for, seed by seed."""
    found: dict[Path, Task] = {}
    for seed in options.seeds:
        for target in options.target:
            for arm in arms.find(options.arms):
                # Nothing is removed, so that one target is enough.
                share = 0.0 if arm == arms.UNPRUNED else target
                name = f"{arm}-{100 * share:.4g}-{seed}.json"
                path = options.results / setting.name / name
                found.setdefault(path, Task(arm, share, seed, path))
    return list(found.values())


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, path)


def pretrained(depth: int, weights: Path) -> keras.Model:
    sys.path.append(str(EXAMPLES))
    import cifar10_resnet as example

    if weights.is_dir():
        weights = weights / f"cifar10_resnet{depth}.npz"
    model = example.build_resnet(depth)
    example.load_weights(model, weights)
    return model


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    for field in dataclasses.fields(Setting):
        name = f"--{field.name.replace('_', '-')}"
        kind = {"int": int, "float": float, "str": str}.get(str(field.type))
        if field.name == "scope":
            add(name, choices=["all", "inner"], default=field.default)
        elif kind is not None:
            add(name, type=kind, default=field.default)
    add("--arms", nargs="+", default=["*"], help="names or patterns")
    add("--target", type=float, nargs="+", default=TARGETS)
    add("--seeds", type=int, nargs="+", default=SEEDS)
    add("--data-dir", help="folder of TensorFlow Datasets with cifar10/")
    add("--images-npz", type=Path, nargs="+", default=[], metavar="FILE")
    add("--save-images", type=Path, metavar="DIR", help="for --images-npz")
    add("--weights", type=Path, help="an .npz file or its folder")
    add("--results", type=Path, default=RESULTS)
    add("--list", action="store_true", help="say what is missing; run nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; return how many runs failed."""
    options = parse(arguments)
    fields = {field.name for field in dataclasses.fields(Setting)}
    setting = Setting(**{k: v for k, v in vars(options).items() if k in fields})
    if options.save_images:
        images = data.load(options.data_dir, options.images_npz)
        for path in data.save(images, options.save_images):
            print(path)
        return 0
    wanted = tasks(options, setting)
    missing = [task for task in wanted if not task.done(setting)]
    print(f"{setting.name}: {len(missing)} of {len(wanted)} runs are missing")
    if options.list or not missing:
        for task in missing:
            print(f"  {task.path.stem}")
        return 0
    if options.weights is None:
        raise SystemExit("Pass --weights: the folder of cifar10_resnet*.npz.")
    images = data.load(options.data_dir, options.images_npz)
    bench = Bench(setting, images, pretrained(setting.depth, options.weights))
    print(f"pretrained: {bench.baseline}")
    failed = 0
    for number, task in enumerate(missing, start=1):
        print(f"{number} of {len(missing)}: {task.path.stem}", flush=True)
        try:
            result = bench.run(task.arm, task.target, task.seed)
        except Exception:
            # The other runs of a long series are worth having.
            traceback.print_exc()
            failed += 1
            continue
        write(task.path, result)
        print(f"  final: {result['final']}", flush=True)
        gc.collect()
    print(f"{len(missing) - failed} runs done, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main() > 0)
