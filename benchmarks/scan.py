"""What a scan of all groups costs, against as many plain forward passes.

    python benchmarks/scan.py [--depth 56] [--images 1000] [--limit 0]

`greedy_loss` tries a step in every group and measures the loss of each. Here
every trial is followed by one prediction of the plain model on the same images,
so that both see the same machine. The network is a CIFAR ResNet with random
weights on random images, which takes as long as a trained one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))


def timed(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def scan(depth: int, images: int, batch: int, limit: int):
    """Seconds of each trial and of the plain pass that follows it."""
    import keras
    import numpy as np
    from cifar10_resnet import build_resnet

    import kprune

    rng = np.random.default_rng(0)
    x = rng.normal(size=(images, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, images)
    model = build_resnet(depth)
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=keras.config.backend() == "jax",
    )
    masked = kprune.wrap(model)
    groups = kprune.trace(masked).prunable

    def plain():
        for start in range(0, images, batch):
            model.predict_on_batch(x[start : start + batch])

    def trial(group):
        mask = np.ones(group.size)
        mask[: max(1, group.size // 10)] = 0
        session.loss({group.name: mask})

    first = time.perf_counter()
    session = kprune.Session(masked, (x, y))
    session.loss()
    first = time.perf_counter() - first
    plain()
    rows = []
    for group in groups[: limit or None]:
        rows.append((timed(trial, group), timed(plain)))
    return len(groups), first, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument(
        "--batch", type=int, default=250, help="images per plain batch"
    )
    parser.add_argument(
        "--limit", type=int, default=0, help="groups to try; 0 for all"
    )
    options = parser.parse_args()
    groups, first, rows = scan(
        options.depth, options.images, options.batch, options.limit
    )
    trials, plain = zip(*rows, strict=True)
    print(
        f"ResNet-{options.depth}, {options.images} images: "
        f"{len(rows)} of {groups} groups tried"
    )
    print(f"to make the probe and measure once, s: {first:.2f}")
    print(f"scan, s: {sum(trials):.2f}; as many plain passes: {sum(plain):.2f}")
    ratios = [t / p for t, p in rows]
    print(
        f"scan / plain: {sum(trials) / sum(plain):.3f} "
        f"(median of pairs {statistics.median(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
