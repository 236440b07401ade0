r"""Pruning systems compared by experiment: CIFAR-10, pretrained ResNets.

    python benchmarks/methods/run.py --data-dir ../shared/data/tfds \
        --weights ../shared/data/weights --epochs 4 --images 20000
    python benchmarks/methods/run.py --arms attenuation 'duplication-*' \
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
there is not run again, so a series that was stopped goes on where it was, and
several processes can share one that they begin at different ends (`--seeds 0 1 2`,
`--seeds 2 1 0`); files of other options in the same place are an error.

It runs on any backend of Keras. Without TensorFlow, which reads the data set:

    python benchmarks/methods/run.py --data-dir DIR --save-images images
    KERAS_BACKEND=jax python benchmarks/methods/run.py --weights DIR \
        --images-npz images/images_*.npz --depth 56 --epochs 40 --images 50000
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import arms
import data
import keras
from experiment import Bench
from experiment import Setting

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
EXAMPLES = HERE.parent.parent / "examples"

TARGETS = (0.5, 0.75)
SEEDS = (0, 1, 2)


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
    finished = failed = 0
    for number, task in enumerate(missing, start=1):
        if task.done(setting):  # by another process, meanwhile
            continue
        print(f"{number} of {len(missing)}: {task.path.stem}", flush=True)
        try:
            result = bench.run(task.arm, task.target, task.seed)
        except Exception:
            # The other runs of a long series are worth having.
            traceback.print_exc()
            failed += 1
            continue
        write(task.path, result)
        finished += 1
        print(f"  final: {result['final']}", flush=True)
        gc.collect()
    print(f"{finished} runs done, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main() > 0)
