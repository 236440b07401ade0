r"""Measure the CPU seconds of one round of a callback with `recover=`.

    python benchmarks/round_cost.py --data-dir ../shared/data

A round chooses filters and repairs the remaining ones on 1,024 images, as
`PruneCallback(..., data=x, recover=...)` does before an epoch. It is measured as the
second call of `prune` in a fresh process. For comparison, the time of one epoch of
training on the 50,000 images of CIFAR-10 is extrapolated from 30 steps of batch 128.
Times are for one core: run this with `taskset -c 0`. Writes
`benchmarks/results/round_cost.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "round_cost.json"
WAYS = {
    "l1": ("l1", "global", []),
    "l1 + reconstruct": ("l1", "global", "reconstruct"),
    "reconstruction, output_error, reconstruct": (None, None, None),
}
STEPS = 30
BATCH = 128

sys.path[:1] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "examples")]


def measure(network: str, data_dir: pathlib.Path) -> dict:
    import best_path
    import keras
    import numpy as np

    import kprune

    model, x, _ = best_path.load(network, data_dir)
    masked = kprune.wrap(model)
    fresh = kprune.recovery.WeightSnapshot(masked.variables)
    found = {}
    for way, (criterion, allocation, recover) in WAYS.items():
        for _ in range(1 + (way == "l1")):  # the first one warms up the backend
            fresh.restore()
            start = time.process_time()
            kprune.prune(
                masked,
                criterion,
                {"macs": 0.5},
                allocation,
                data=x,
                recover=recover,
            )
            found[way] = round(time.process_time() - start, 1)
    masked.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=False)
    batch, wanted = x[:BATCH], np.zeros((BATCH, 10), "float32")
    masked.train_on_batch(batch, wanted)
    start = time.process_time()
    for _ in range(STEPS):
        masked.train_on_batch(batch, wanted)
    each = (time.process_time() - start) / STEPS
    found["epoch"] = round(each * 50_000 / BATCH)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--networks", nargs="+", default=["resnet8", "resnet20"])
    add("--data-dir", type=pathlib.Path, required=True)
    options = parser.parse_args()
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for network in options.networks:
        result[network] = measure(network, options.data_dir)
        print(network, result[network], flush=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
