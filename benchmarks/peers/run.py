r"""Compare kprune with Torch-Pruning: ResNet-8 of MLPerf Tiny, CIFAR-10.

    python benchmarks/peers/run.py --data-dir ../shared/data/tfds \
        --weights ../shared/data/models
    python benchmarks/peers/run.py --list ...         # what is missing

Both libraries start from the same weights, prune the whole network at once to the same
share of its MACs, and train with the same SGD on the same batches, which are prepared
once, flips and crops included. Weight decay is 0, because PyTorch couples it to the
gradient and Keras does not. Accuracy is measured right after pruning and after the last
epoch, on `test[:5000]`, `test[5000:]` and all of test. CPU seconds are those of pruning
only.

PyTorch and Torch-Pruning run in their own environment, `.venv-peers`, which the first
call creates. Each run writes `results/WAY-TARGET-SEED.json`; a run whose file exists is
skipped. At the end, `docs/peers.md` is written from these files.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Idle threads that spin would be counted as CPU seconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

sys.path.append(str(Path(__file__).resolve().parents[1] / "methods"))

import common
import data
import experiment
import keras
import numpy as np
import page

import kprune
from kprune.criteria import Random
from kprune.report.measure import predict

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PEERS = ("torch==2.13.0", "torch-pruning==1.6.1")
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
RESULTS = HERE / "results"
KPRUNE: dict[str, Callable[[int], dict[str, Any]]] = {
    "kprune-default": lambda seed: {},
    "kprune-l1": lambda seed: {"criterion": "l1"},
    "kprune-taylor": lambda seed: {"criterion": "taylor"},
    "kprune-random": lambda seed: {"criterion": Random(seed)},
}
CLASSES = 10
TORCH = ("torch-magnitude", "torch-bn-scale", "torch-taylor", "torch-random")


@dataclasses.dataclass(frozen=True)
class Setting(experiment.Setting):
    """Options that both libraries share. See `experiment.Setting`."""

    depth: int = 8
    epochs: int = 10
    images: int = 3000
    learning_rate: float = 1e-3
    weight_decay: float = 0.0


@dataclasses.dataclass(frozen=True)
class Task:
    """One run and its result file."""

    way: str
    target: float
    seed: int
    path: Path

    def done(self, setting: Setting) -> bool:
        return common.done(self.path, setting.config())


class Bench(experiment.Bench):
    """The pretrained network and the images, also as files for Torch-Pruning."""

    def __init__(
        self,
        setting: Setting,
        images: data.Images,
        model: keras.Model,
        folder: Path,
    ) -> None:
        super().__init__(setting, images, model)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {v.path: np.asarray(v.numpy()) for v in model.weights}
        np.savez(folder / "network.npz", **arrays)
        scores = predict(model, self.x_test[:256], 256)
        np.savez(folder / "test.npz", x=images.x_test, scores=scores)

    def batches(self, seed: int) -> Path:
        """Return the path of the file of all batches of a run, after creating it."""
        path = self.folder / f"{self.setting.name}-{seed}.npz"
        if path.exists():
            return path
        # As uint8; both sides turn them into inputs of their network.
        made = data.Augmented(self.images, self.setting, seed, np.asarray)
        found = []
        for _ in range(self.setting.epochs):
            found += [made[step] for step in range(made.num_batches)]
            made.on_epoch_end()
        x, y = (np.stack(arrays) for arrays in zip(*found, strict=True))
        cx, cy = self.calibration(seed)
        with common.replacing(path) as temporary:
            np.savez(temporary, x=x, y=y, calibration_x=cx, calibration_y=cy)
        return path

    def run(self, task: Task) -> dict[str, Any]:
        if task.way in TORCH:
            return self.torch(task)
        with np.load(self.batches(task.seed)) as arrays:
            x, y = arrays["x"], arrays["y"]
            samples = arrays["calibration_x"], arrays["calibration_y"]
        keras.utils.set_random_seed(task.seed)
        masked = kprune.wrap(self.model)
        experiment.compile_model(masked, self.setting)
        start = time.process_time()
        kprune.prune(
            masked,
            reduce={"macs": task.target},
            data=samples,
            **KPRUNE[task.way](task.seed),
        )
        compact = kprune.rebuild(masked)
        seconds = time.process_time() - start
        pruned = self.score(compact)
        experiment.compile_model(compact, self.setting)
        for images, labels in zip(x, y, strict=True):
            compact.train_on_batch(self.setting.prepare(images), labels)
        return self.completed(
            task,
            pruned=pruned,
            final=self.score(compact),
            macs=kprune.cost(compact).macs,
            params=kprune.cost(compact).params,
            cpu_seconds=round(seconds, 2),
        )

    def score(self, model: keras.Model) -> dict[str, float]:
        scores = predict(model, self.x_test, experiment.BATCH)
        return experiment.score(scores, self.images.y_test)

    def torch(self, task: Task) -> dict[str, Any]:
        answer = subprocess.run(
            [
                *(str(PYTHON), str(HERE / "torch_side.py")),
                *("--way", task.way, "--target", str(task.target)),
                *("--seed", str(task.seed), "--folder", str(self.folder)),
                *("--batches", str(self.batches(task.seed))),
                *("--learning-rate", str(self.setting.learning_rate)),
                *("--momentum", str(self.setting.momentum)),
            ],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found = json.loads(answer.stdout)
        if found["full_macs"] != self.cost.macs:
            raise ValueError(
                f"PyTorch counts {found['full_macs']} MACs before pruning, kprune "
                f"{self.cost.macs}. Their targets would differ."
            )
        del found["full_macs"]
        pruned, final = (
            experiment.score(
                np.eye(CLASSES)[found.pop(key)], self.images.y_test
            )
            for key in ("pruned", "final")
        )
        return self.completed(task, pruned=pruned, final=final, **found)

    def completed(
        self, task: Task, macs: float, params: float, **found: Any
    ) -> dict[str, Any]:
        full = self.cost
        return {
            "way": task.way,
            "target": task.target,
            "seed": task.seed,
            "setting": self.setting.config(),
            "baseline": self.baseline,
            "macs_removed": experiment.removed(macs, full.macs),
            "params_removed": experiment.removed(params, full.params),
            "versions": experiment.versions() | found.pop("versions", {}),
            **found,
        }


def environment() -> None:
    """Create the environment of the peers unless it exists."""
    if PYTHON.exists():
        return
    print(f"Installing {' and '.join(PEERS)}", flush=True)
    venv.create(PYTHON.parents[1], with_pip=True)
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", *PEERS]
    subprocess.run(command, check=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common.add_fields(parser, Setting)
    common.add_places(parser, RESULTS)
    add = parser.add_argument
    ways = [*KPRUNE, *TORCH]
    add("--ways", nargs="+", choices=ways, default=ways)
    add("--target", type=float, nargs="+", default=[0.5])
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--folder", type=Path, default=ROOT / "build" / "peers")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, and return the number of failed runs."""
    options = parse(arguments)
    setting = common.from_options(Setting, options)
    wanted = [
        Task(way, t, seed, options.results / f"{way}-{100 * t:g}-{seed}.json")
        for seed in options.seeds
        for t in options.target
        for way in options.ways
    ]
    missing = common.missing_runs(wanted, setting, names=options.list)
    if options.list:
        return 0
    failed = 0
    if missing:
        if options.weights is None:
            raise SystemExit(
                "Pass --weights: the folder of mlperf_tiny_ic_resnet8.h5."
            )
        if any(task.way in TORCH for task in missing):
            environment()
        bench = Bench(
            setting,
            data.load(options.data_dir, options.images_npz),
            common.pretrained(setting.depth, options.weights),
            options.folder,
        )
        failed = common.run_missing(missing, setting, bench.run)
    page_of(options.results)
    return failed


WAYS = {
    "kprune-default": "kprune, the default: least output error, repaired",
    "kprune-l1": 'kprune, `criterion="l1"`',
    "kprune-taylor": 'kprune, `criterion="taylor"` (labels)',
    "kprune-random": 'kprune, `criterion="random"`',
    "torch-magnitude": "Torch-Pruning, `GroupMagnitudeImportance`",
    "torch-bn-scale": "Torch-Pruning, `BNScaleImportance`",
    "torch-taylor": "Torch-Pruning, `GroupTaylorImportance` (labels)",
    "torch-random": "Torch-Pruning, `RandomImportance`",
}


def page_of(results: Path, target: Path = ROOT / "docs" / "peers.md") -> None:
    """Write the page from the existing results."""
    found = [json.loads(p.read_text()) for p in sorted(results.glob("*.json"))]
    if not found:
        return
    setting, base = found[0]["setting"], found[0]["baseline"]
    lines = [
        "# Comparison with Torch-Pruning",
        "",
        "ResNet-8 of MLPerf Tiny on CIFAR-10 "
        f"({base['test[5000:]']:.2f} % on `test[5000:]`), pruned at once over all "
        "layers, then trained for "
        f"{setting['epochs']} epochs of {setting['images']} images "
        f"(learning rate {setting['learning_rate']:g}, cosine), with the same weights, "
        "batches and number of steps for both libraries. Both get "
        f"{setting['calibration']} training images to choose filters with; only the "
        "ways marked (labels) use their labels. ± is the standard deviation over "
        "seeds; CPU seconds are those of pruning. `benchmarks/peers/run.py` writes "
        "this page.",
        "",
        "| way | MACs removed | right after | after training | CPU seconds |"
        " seeds |",
        "|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for run in found:
        groups.setdefault((run["target"], run["way"]), []).append(run)
    order = list(WAYS)
    for (_, way), runs in sorted(
        groups.items(), key=lambda item: (item[0][0], order.index(item[0][1]))
    ):
        after, final = (
            page.spread([run[key]["test[5000:]"] for run in runs])
            for key in ("pruned", "final")
        )
        gone = 100 * np.mean([run["macs_removed"] for run in runs])
        seconds = np.mean([run["cpu_seconds"] for run in runs])
        lines.append(
            f"| {WAYS[way]} | {gone:.1f} % | {after} | {final} "
            f"| {seconds:.1f} | {len(runs)} |"
        )
    target.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main() > 0)
