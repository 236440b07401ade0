"""Compare the time of a scan of all groups with that of as many plain passes.

    python benchmarks/scan.py [--depth 56] [--images 1000] [--limit 0] [--repeat 2]

`greedy_loss` tries a step in every group and measures the loss of each, with one call
of `Session.losses`. This times such a call, in turns with as many predictions of the
plain model on the same images. On a machine that is also used by others, look at the
ratio of the times on all cores, which depends less on the load. The network is a CIFAR
ResNet with random weights on random images; a trained one takes as long.
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
    """Return the wall time of a call, and its CPU time on all cores, in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(*args)
    return time.perf_counter() - wall, time.process_time() - cpu


def scan(depth: int, images: int, batch: int, limit: int, repeat: int = 1):
    """Time scans of all groups and plain passes in turns.

    Returns:
        The number of groups, the time of the first scan, which includes compilation,
        and for each turn the times of a scan and of the plain passes.
    """
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
    session = kprune.Session(masked, (x, y))
    groups = session.groups[: limit or None]
    trials = []
    for group in groups:
        mask = np.ones(group.size)
        mask[: max(1, group.size // 10)] = 0
        trials.append({group.name: mask})

    def plain():
        for _ in groups:
            for start in range(0, images, batch):
                model.predict_on_batch(x[start : start + batch])

    def whole():
        session.losses(trials)

    first = timed(whole)
    model.predict_on_batch(x[:batch])
    rows = [(timed(whole), timed(plain)) for _ in range(repeat)]
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
    parser.add_argument("--repeat", type=int, default=2, help="turns")
    options = parser.parse_args()
    groups, first, rows = scan(
        options.depth,
        options.images,
        options.batch,
        options.limit,
        options.repeat,
    )
    print(f"ResNet-{options.depth}, {options.images} images, {groups} groups")
    for number, kind in enumerate(("wall", "on all cores")):
        scans = [row[0][number] for row in rows]
        plain = [row[1][number] for row in rows]
        ratio = statistics.median(map(float.__truediv__, scans, plain))
        print(
            f"{kind}: scan {statistics.median(scans):.2f} s "
            f"(the first, with compilation, {first[number]:.2f} s), "
            f"as many plain passes {statistics.median(plain):.2f} s, "
            f"scan / plain {ratio:.3f}"
        )


if __name__ == "__main__":
    main()
