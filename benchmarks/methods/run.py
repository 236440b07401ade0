r"""Compare pruning methods by experiment: CIFAR-10, pretrained ResNets.

    python benchmarks/methods/run.py --data-dir ../shared/data/tfds \
        --weights ../shared/data/weights --epochs 4 --images 20000
    python benchmarks/methods/run.py --depth 8 --epochs 10 --images 3000 \
        --learning-rate 1e-3 --target 0.5 --weights ../shared/data/models ...
    python benchmarks/methods/run.py --arms attenuation 'duplication-*' \
        --target 0.5 --seeds 0 --data-dir DIR --weights DIR
    python benchmarks/methods/run.py --list       # what is missing
    python benchmarks/methods/page.py             # docs/benchmarks.md

Depth 8 is the ResNet-8 of MLPerf Tiny. It takes pixels from 0 to 255 and needs a low
learning rate: at 0.02 the accuracy of the unpruned network falls to 12 % in the first
epoch.

Each arm of `arms.py` prunes and trains the same network, with the same images in the
same order and augmentation for each seed, the same number of steps, and the same
optimizer and learning rates. An epoch has `--images` training images, drawn anew each
time. Accuracy after each epoch is measured on `test[:5000]`, where choices may be
made. The result is the accuracy of the compact model after the last epoch, measured
once on `test[5000:]` and on all of test.

Each run writes `results/RESNET-SCOPE-EPOCHSxIMAGES/ARM-TARGET-SEED.json`. A run whose
file exists is skipped, so an interrupted series resumes, and several processes can
share a series that they start at different ends (`--seeds 0 1 2`, `--seeds 2 1 0`).
A file in the same place with other options is an error.

It runs on any backend of Keras. To run without TensorFlow, which reads the data set,
save the images first:

    python benchmarks/methods/run.py --data-dir DIR --save-images images
    KERAS_BACKEND=jax python benchmarks/methods/run.py --weights DIR \
        --images-npz images/images_*.npz --depth 56 --epochs 40 --images 50000
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import arms
import common
import data
from common import pretrained
from experiment import Bench
from experiment import Setting

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"

TARGETS = (0.5, 0.75)
SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Task:
    """One run and its result file."""

    arm: str
    target: float
    seed: int
    path: Path

    def done(self, setting: Setting) -> bool:
        """Return whether the file exists; raise if it has another setting."""
        return common.done(self.path, setting.config())


def tasks(options: argparse.Namespace, setting: Setting) -> list[Task]:
    """Return all requested runs, seed by seed."""
    found: dict[Path, Task] = {}
    for seed in options.seeds:
        for target in options.target:
            for arm in arms.find(options.arms):
                share = 0.0 if arms.ARMS[arm].whole else target
                name = f"{arm}-{100 * share:.4g}-{seed}.json"
                path = options.results / setting.name / name
                found.setdefault(path, Task(arm, share, seed, path))
    return list(found.values())


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    common.add_fields(parser, Setting)
    common.add_places(parser, RESULTS)
    add("--scope", choices=["all", "inner"], default=Setting.scope)
    add("--arms", nargs="+", default=["*"], help="names or patterns")
    add("--target", type=float, nargs="+", default=TARGETS)
    add("--seeds", type=int, nargs="+", default=SEEDS)
    add("--save-images", type=Path, metavar="DIR", help="for --images-npz")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, and return the number of failed runs."""
    options = parse(arguments)
    setting = common.from_options(Setting, options)
    if options.save_images:
        images = data.load(options.data_dir, options.images_npz)
        for path in data.save(images, options.save_images):
            print(path)
        return 0
    wanted = tasks(options, setting)
    missing = common.missing_runs(
        wanted, setting, setting.name, names=options.list
    )
    if options.list or not missing:
        return 0
    if options.weights is None:
        raise SystemExit("Pass --weights: the folder of cifar10_resnet*.npz.")
    images = data.load(options.data_dir, options.images_npz)
    bench = Bench(setting, images, pretrained(setting.depth, options.weights))
    print(f"pretrained: {bench.baseline}")
    return common.run_missing(
        missing,
        setting,
        lambda task: bench.run(task.arm, task.target, task.seed),
    )


if __name__ == "__main__":
    sys.exit(main() > 0)
