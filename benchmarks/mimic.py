r"""Train for minutes without labels: CIFAR-10, pretrained ResNets.

    python benchmarks/mimic.py --data-dir ../shared/data
    python benchmarks/mimic.py --networks resnet20 --targets 0.49 --steps 800 ...
    python benchmarks/mimic.py --networks resnet56 --targets 0.65 --steps 3900 \
        --samples 50000 ...
    python benchmarks/mimic.py --list

Each network is pruned and refitted on 1,024 unlabelled training images
(`prune(model, reduce=..., data=x)`). Then it learns the logits and last features of the
original on the same images, or on the first `--samples` ones, for some steps
(`recover="mimic"`). No labels are used. ResNet-8 is that of MLPerf Tiny, which takes
pixels from 0 to 255. All channel groups may be pruned. Choices were made on
`test[:5000]`.

Each run writes `benchmarks/results/mimic/NETWORK-TARGET-STEPS-SEED.json`, with the
number of samples after the steps if it is not 1,024. A run whose file exists is
skipped. `--data-dir` holds `tfds`, `weights` and `models`.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import time

import best_path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mimic"
TARGETS = {
    "resnet8": (0.2, 0.4),
    "resnet20": (0.36, 0.49, 0.66),
    "resnet56": (0.36, 0.49, 0.66),
}
STEPS = 800

sys.path[:1] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "examples")]


def runs(options: argparse.Namespace) -> dict:
    """Return the missing numbers of steps, by network and target."""
    missing: dict = {}
    for network in options.networks:
        for target in options.targets or TARGETS[network]:
            left = [
                steps
                for steps in options.steps
                if not path_of(network, target, steps, options).exists()
            ]
            if left:
                missing[network, target] = left
    return missing


def path_of(
    network: str, target: float, steps: int, options: argparse.Namespace
) -> pathlib.Path:
    budget = f"{steps}"
    if options.samples != best_path.SAMPLES:
        budget += f"x{options.samples}"
    name = f"{network}-{100 * target:g}-{budget}-{options.seed}.json"
    return RESULTS / name


def measure(network: str, target: float, options: argparse.Namespace) -> None:
    import keras

    import kprune

    drawn = slice(options.samples)
    model, data, (x, y) = best_path.load(network, options.data_dir, drawn)

    def top1(masked) -> dict:
        return best_path.top1(kprune.rebuild(masked), x, y)

    full = kprune.cost(model)
    masked = kprune.wrap(model)
    session = kprune.Session(masked, data)
    few = data[: best_path.SAMPLES]
    baseline, before = top1(masked), session.snapshot()
    start = time.process_time()
    kprune.prune(masked, reduce={"macs": target}, data=few)
    pruning = time.process_time() - start
    repaired, refitted = top1(masked), session.snapshot()
    print(network, target, "refitted", repaired, flush=True)
    cost = kprune.cost(masked)
    for steps in runs(options)[network, target]:
        refitted.restore()
        mimic = kprune.recovery.Mimic(
            samples=options.samples, steps=steps, seed=options.seed
        )
        start = time.process_time()
        kprune.recovery.recover(session, before, [mimic])
        seconds = time.process_time() - start
        result = {
            "network": network,
            "target": target,
            "recover": ["reconstruct", repr(mimic)],
            "samples": len(data),
            "macs_removed": round(1 - cost.macs / full.macs, 4),
            "params_removed": round(1 - cost.params / full.params, 4),
            "baseline": baseline,
            "refitted": repaired,
            "final": top1(masked),
            "cpu_seconds": {
                "prune": round(pruning),
                "mimic": round(seconds),
            },
            "keras": keras.__version__,
            "kprune": kprune.__version__,
        }
        print(network, target, steps, result["final"], flush=True)
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = path_of(network, target, steps, options)
        path.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--networks", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    add(
        "--targets",
        type=float,
        nargs="+",
        help="shares of the MACs; default: three",
    )
    add("--steps", type=int, nargs="+", default=[STEPS])
    add(
        "--samples",
        type=int,
        default=best_path.SAMPLES,
        help="images to train on",
    )
    add("--seed", type=int, default=0)
    add("--data-dir", type=pathlib.Path)
    add("--list", action="store_true", help="list what is missing; run nothing")
    options = parser.parse_args()
    for (network, target), steps in runs(options).items():
        if options.list:
            print(network, target, steps)
        else:
            measure(network, target, options)


if __name__ == "__main__":
    main()
