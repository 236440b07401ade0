r"""Accuracy with training: ResNet-56 on CIFAR-10, pruned and then trained.

    python benchmarks/headline/run.py --data-dir ../shared/data/tfds \
        --weights ../shared/data/weights --epochs 40
    python benchmarks/headline/run.py --points b c --seeds 0 --epochs 8 \
        --weight-decay 2e-3 --data-dir DIR --weights DIR
    python benchmarks/headline/run.py --arms random-unrepaired --target 0.65 ...
    python benchmarks/headline/run.py --list --epochs 40     # what is missing

A run starts from published weights (93.39 % on all test images). Filters are removed

- `best`: before training, where the output error after the repair is smallest; the
  remaining filters are repaired on 1,024 training images without their labels;
- `random`: before training, at random and for the same number of MACs, with the same
  repair (`random-unrepaired`: without it), so that only the choice differs;
- `similarity`, `msvfp`: by the recipe of that name in the first part of training,
  without a teacher or mixup. Its epochs count.

Once the last filter has been removed, the network is rebuilt and only the compact
network is trained, with the unpruned network as its teacher (`keras.distillation`)
unless `--no-teacher` is given. The optimizer is SGD with Nesterov momentum; the
learning rate falls along a cosine over all epochs; images are flipped and cropped.
Weight decay is decoupled as in Keras. It is not part of the gradient, so momentum does
not amplify it tenfold as in frameworks that couple it.

Accuracy after each epoch is measured on `test[:5000]`, where choices may be made. The
final figures are measured after the last epoch, on `test[5000:]` and on all of test.

Each run writes `results/ARM-TARGET-TEACHER-EPOCHS-SEED.json`; options that differ from
their defaults are part of the name. A run whose file exists is skipped. A checkpoint in
`checkpoints/` after each epoch lets an interrupted run resume and end with the same
result: data and their order depend only on the seed and the epoch.

It runs on TensorFlow and JAX. Where TensorFlow Datasets is not installed, pass files
written by `benchmarks/methods/run.py --save-images` as `--images-npz`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Appended, not inserted: that folder has a module `run` too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "methods"))

import common
import data
import experiment
import keras
import points
import training
from common import pretrained
from points import Setting
from points import Task

import kprune
from kprune.report.measure import accuracy
from kprune.report.measure import predict

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
CHECKPOINTS = HERE / "checkpoints"
SEEDS = (0, 1, 2)


class Bench(experiment.Bench):
    """The pretrained network and the images of one setting.

    Args:
        setting: A `Setting`.
        images: CIFAR-10.
        model: The pretrained network.
        checkpoints: Folder for the checkpoints of runs.
    """

    def __init__(
        self,
        setting: Setting,
        images: data.Images,
        model: keras.Model,
        checkpoints: Path = CHECKPOINTS,
    ) -> None:
        super().__init__(setting, images, model)
        self.checkpoints = checkpoints
        self._measured: dict[int, points.MeasuredOnce] = {}

    def run(self, task: Task) -> dict[str, Any]:
        """Prune and train once, and return the result to write."""
        checkpoint = training.Checkpoint(self.checkpoints / task.path.stem)
        progress = checkpoint.progress(self.setting.config())
        one_hot = self.setting.mixup > 0
        if progress.pruned is None:
            compact = self.pruned(task, checkpoint, progress)
        else:
            compact = keras.models.load_model(checkpoint.compact, compile=False)
        # Keep the optimizer of a recipe, so that the rate follows one curve.
        optimizer = compact.optimizer if compact.compiled else None
        experiment.compile_model(compact, self.setting, optimizer, one_hot)
        checkpoint.restore(compact)
        network = compact
        if task.point.teacher:
            # Distillation freezes the teacher, and later runs start from it.
            teacher = keras.models.clone_model(self.model)
            teacher.set_weights(self.model.get_weights())
            network = training.with_teacher(compact, teacher, one_hot)
        for epoch in range(progress.epoch, self.setting.epochs):
            batches = training.epoch_batches(
                self.images, self.setting, task.seed, epoch
            )
            progress.add(self.epoch(network, compact, batches, epoch))
            checkpoint.save(compact, progress)
        return self.result(task, compact, progress)

    def pruned(
        self,
        task: Task,
        checkpoint: training.Checkpoint,
        progress: training.Progress,
    ) -> keras.Model:
        """Return the compact network after saving it and its figures."""
        arm = points.ARMS[task.point.arm]
        start = time.perf_counter()
        keras.utils.set_random_seed(task.seed)
        if arm.recipe is None:
            x, _ = self.calibration(task.seed)
            measured = self._measured.setdefault(
                task.seed, points.MeasuredOnce()
            )
            masked = arm.prune(
                self.model, task.point.reduce, x, task.seed, measured
            )
        else:
            masked = self.by_recipe(arm.recipe, task, checkpoint, progress)
        compact = kprune.rebuild(masked)
        seconds = time.perf_counter() - start
        seconds -= sum(row["seconds"] for row in progress.rows)
        if not compact.compiled:
            experiment.compile_model(compact, self.setting)
        progress.pruned = {
            "before_epoch": progress.epoch + 1,
            "accuracy": experiment.score(
                predict(compact, self.x_test, experiment.BATCH),
                self.images.y_test,
            ),
            "kept": {
                group: int((mask > 0).sum())
                for group, mask in kprune.masks(masked).items()
            },
            "seconds": round(seconds, 2),
        }
        print(f"  pruned: {progress.pruned['accuracy']}", flush=True)
        with common.replacing(checkpoint.compact) as path:
            compact.save(path, include_optimizer=False)
        checkpoint.save(compact, progress)
        return compact

    def by_recipe(
        self,
        name: str,
        task: Task,
        checkpoint: training.Checkpoint,
        progress: training.Progress,
    ) -> keras.Model:
        """Return the masked network as soon as the last filter is removed."""
        recipe = kprune.recipe(
            name,
            reduce=task.point.reduce,
            data=self.calibration(task.seed),
            epochs=self.setting.epochs,
        )
        unmixed = dataclasses.replace(self.setting, mixup=0.0)
        masked = recipe.prepare(self.masked())
        checkpoint.restore(masked)
        # Not in `fit`, which would train the masked network for one more epoch
        # before it could be rebuilt.
        callbacks = keras.callbacks.CallbackList(
            recipe.callbacks, model=masked, epochs=self.setting.epochs
        )
        callbacks.on_train_begin()
        for epoch in range(progress.epoch, recipe.rounds[-1] + 1):
            callbacks.on_epoch_begin(epoch)
            if epoch == recipe.rounds[-1]:
                break
            batches = training.epoch_batches(
                self.images, unmixed, task.seed, epoch
            )
            progress.add(self.epoch(masked, masked, batches, epoch))
            callbacks.on_epoch_end(epoch)
            checkpoint.save(masked, progress)
        callbacks.on_train_end()
        return masked

    def epoch(
        self,
        network: keras.Model,
        measured: keras.Model,
        batches: Any,
        epoch: int,
    ) -> dict[str, Any]:
        """Train for one epoch and return its figures."""
        start = time.perf_counter()
        history = network.fit(
            batches,
            epochs=epoch + 1,
            initial_epoch=epoch,
            shuffle=False,
            verbose=0,
        )
        seconds = time.perf_counter() - start
        logs = {name: float(of[-1]) for name, of in history.history.items()}
        chosen = data.CHOICE
        scores = predict(measured, self.x_test[chosen], experiment.BATCH)
        hits = accuracy(scores, self.images.y_test[chosen])
        row = {
            "epoch": epoch + 1,
            "accuracy": experiment.percent(hits),
            "training_loss": round(logs["loss"], 5),
            "training_accuracy": experiment.percent(logs["accuracy"]),
            "seconds": round(seconds, 2),
        }
        print(
            f"  epoch {epoch + 1}: {row['accuracy']:.2f} %, {seconds:.0f} s",
            flush=True,
        )
        return row

    def result(
        self, task: Task, compact: keras.Model, progress: training.Progress
    ) -> dict[str, Any]:
        """Return the result of a finished run."""
        scores = predict(compact, self.x_test, experiment.BATCH)
        final = experiment.score(scores, self.images.y_test)
        cost = kprune.cost(compact)
        return {
            "arm": task.point.arm,
            "target": dict(task.point.reduce),
            "teacher": task.point.teacher,
            "seed": task.seed,
            "setting": self.setting.config(),
            "baseline": self.baseline,
            "pruned": progress.pruned,
            "epochs": progress.rows,
            "final": {k: final[k] for k in ("test[5000:]", "test")},
            "macs": self._cost(cost, "macs"),
            "params": self._cost(cost, "params"),
            "seconds": round(sum(row["seconds"] for row in progress.rows), 2),
            "versions": experiment.versions(),
        }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    common.add_fields(parser, Setting)
    common.add_places(parser, RESULTS)
    letters = list(points.POINTS)
    add("--points", nargs="+", choices=letters, default=letters)
    add("--arms", nargs="+", default=[], help="names or patterns, not --points")
    add("--target", type=float, nargs="+", default=[], help="with --arms: MACs")
    add("--no-teacher", action="store_true", help="train on labels alone")
    add("--seeds", type=int, nargs="+", default=SEEDS)
    add("--checkpoints", type=Path, default=CHECKPOINTS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, and return the number of failed runs."""
    options = parse(arguments)
    setting = common.from_options(Setting, options)
    chosen = points.points(options.points, options.arms, options.target)
    if options.no_teacher:
        chosen = [points.Point(p.arm, p.reduce, False) for p in chosen]
    wanted = points.tasks(chosen, options.seeds, setting, options.results)
    missing = common.missing_runs(wanted, setting, names=options.list)
    if options.list or not missing:
        return 0
    if options.weights is None:
        raise SystemExit("Pass --weights: the folder of cifar10_resnet*.npz.")
    images = data.load(options.data_dir, options.images_npz)
    model = pretrained(setting.depth, options.weights)
    bench = Bench(setting, images, model, options.checkpoints)
    print(f"pretrained: {bench.baseline}", flush=True)
    return common.run_missing(missing, setting, bench.run)


if __name__ == "__main__":
    sys.exit(main() > 0)
