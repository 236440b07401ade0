r"""Compare the time and memory of the best path with those of another version.

    git worktree add ../base 9accc5d
    python benchmarks/best_path.py --against ../base --data-dir ../shared/data

The best path is `prune(model, "reconstruction", {"macs": ...}, "output_error",
data=x_train[:1024], recover="reconstruct")`, with shares in steps of an eighth, tried
on 512 samples. The two versions run in turns, each time in a fresh process, on the
same networks and samples: ResNet-8 of MLPerf Tiny, and CIFAR-10 ResNets. The time is
that of `prune` with half of the MACs to remove. The accuracy on all 10,000 test images
is measured for three targets that share scores and curves, as in `one_shot.py`.
`--tasks scan` measures a scan of `greedy_loss`, as in `scan.py`: it tries every group
of a network without a tenth of its filters, and compares with as many passes of the
plain model. Writes `benchmarks/results/best_path.json`. Look at the ratios.

`--data-dir` holds `tfds`, `weights` and `models`.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "best_path.json"
TARGETS = (0.36, 0.49, 0.66)
NETWORKS = ("resnet8", "resnet20", "resnet56")
SAMPLES = 1024
IMAGES = 250
"""Images of a scan: one batch. The time is proportional to the number of images."""
TASKS = ("time", "accuracy", "scan")


# -- in a separate process ---------------------------------------------------


def load(network: str, data_dir: pathlib.Path, drawn=None):
    """Return the model, unlabelled samples, and test images.

    The samples are the first of the training set, or those at the indices `drawn`.
    """
    import cifar10_resnet as example
    import keras

    from kprune.data import load_cifar10
    from kprune.data import normalize_cifar10

    def images(split):
        x, y = load_cifar10(split, data_dir / "tfds")
        raw = network == "resnet8"
        return x.astype("float32") if raw else normalize_cifar10(x), y

    if network == "resnet8":
        path = data_dir / "models" / "mlperf_tiny_ic_resnet8.h5"
        model = keras.models.load_model(path, compile=False)
    else:
        depth = int(network.removeprefix("resnet"))
        model = example.build_resnet(depth)
        weights = data_dir / "weights" / f"cifar10_resnet{depth}.npz"
        example.load_weights(model, weights)
    if drawn is None:
        return model, images(f"train[:{SAMPLES}]")[0], images("test")
    return model, images("train")[0][drawn], images("test")


def top1(network, x, y) -> dict:
    """Return the accuracy in percent on all test images and on each half."""
    from kprune.report.measure import accuracy
    from kprune.report.measure import predict

    scores = predict(network, x, 500)
    return {
        name: round(100 * accuracy(scores[part], y[part]), 2)
        for name, part in (
            ("test", slice(None)),
            ("test[:5000]", slice(5000)),
            ("test[5000:]", slice(5000, None)),
        )
    }


def eighths():
    import kprune

    # Explicit, so that both versions do the same work whatever their defaults are.
    shares = [share / 8 for share in range(1, 8)]
    return kprune.recovery.OutputError(probe=512, levels=shares)


def best_path(model, data, target: float, allocation):
    import kprune

    return kprune.prune(
        model,
        "reconstruction",
        {"macs": target},
        allocation,
        data=data,
        recover="reconstruct",
    )


def measure_time(network: str, data_dir: pathlib.Path) -> dict:
    """Return wall time, time on all cores and memory of one `prune`."""
    import resource

    model, data, _ = load(network, data_dir)
    model.predict(data[:32], verbose=0)  # warm up the backend
    wall, cpu = time.perf_counter(), time.process_time()
    best_path(model, data, 0.5, eighths())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "peak_mib": round(peak),
    }


def once(function):
    """Return a function that calls another one once and repeats its result."""
    known: list = []

    def call(*args):
        if not known:
            known.append(function(*args))
        return known[0]

    return call


def measure_accuracy(network: str, data_dir: pathlib.Path) -> dict:
    """Return the accuracy in percent by target."""
    model, data, (x, y) = load(network, data_dir)

    def accuracy(compact) -> float:
        hits = compact.predict(x, batch_size=500, verbose=0).argmax(1) == y
        return round(100 * float(hits.mean()), 2)

    return accuracies(model, data, eighths(), accuracy)


def accuracies(model, data, allocation, accuracy) -> dict:
    """Return the accuracy of the compact model, by target."""
    from unittest import mock

    import kprune
    from kprune import criteria
    from kprune.recovery import OutputError

    found = {}
    # `prune` must start from the same model for each target.
    scores, curves = once(criteria.score_groups), once(OutputError.curves)
    with (
        mock.patch.object(criteria, "score_groups", scores),
        mock.patch.object(OutputError, "curves", curves),
    ):
        for target in TARGETS:
            pruned = best_path(model, data, target, allocation)
            found[f"{target:g}"] = accuracy(kprune.rebuild(pruned))
    return found


def measure_scan(network: str, data_dir: pathlib.Path) -> dict:
    """Return the times of a scan of all groups, and of as many plain passes."""
    import scan

    del data_dir
    times: dict[str, list] = {}

    def timed(function, *args):
        wall, cpu = time.perf_counter(), time.process_time()
        function(*args)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        times.setdefault(function.__name__, []).append((wall, cpu))
        # Only the time matters: the result differs between versions.
        return 1.0

    scan.timed = timed
    depth = int(network.removeprefix("resnet"))
    scan.scan(depth, IMAGES, IMAGES, 0)
    plain = sums(times.pop("plain"))
    (found,) = times.values()
    # The first scan includes compilation.
    wall, cpu = sums(found[1:] if len(found) == 2 else found)
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "plain_wall_s": round(plain[0], 2),
        "plain_cpu_s": round(plain[1], 2),
    }


def sums(rows: list) -> list[float]:
    """Return the sum of each column."""
    return [sum(column) for column in zip(*rows, strict=True)]


def child(options: argparse.Namespace) -> None:
    root = pathlib.Path(options.root).resolve()
    sys.path[:1] = [str(root), str(root / "examples"), str(root / "benchmarks")]
    import kprune

    if root not in pathlib.Path(kprune.__file__).resolve().parents:
        raise SystemExit(
            f"Expected kprune from {root}. Imported: {kprune.__file__}"
        )
    function = {
        "time": measure_time,
        "accuracy": measure_accuracy,
        "scan": measure_scan,
    }[options.child]
    found = function(options.networks[0], pathlib.Path(options.data_dir))
    print(json.dumps(found), flush=True)


# -- in turns ----------------------------------------------------------------


def run(root: pathlib.Path, task: str, network: str, data_dir: str) -> dict:
    python = root / ".venv" / "bin" / "python"
    command = [
        str(python if python.exists() else sys.executable),
        str(pathlib.Path(__file__).resolve()),
        *("--child", task, "--root", str(root)),
        *("--networks", network, "--data-dir", data_dir),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=root
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(options: argparse.Namespace) -> None:
    roots = {"now": ROOT, "before": pathlib.Path(options.against).resolve()}
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    data_dir = str(pathlib.Path(options.data_dir).resolve())
    for network in options.networks:
        for task in options.tasks:
            if task == "scan" and network == "resnet8":
                continue
            turns = options.repeat if task != "accuracy" else 1
            found: dict[str, list] = {name: [] for name in roots}
            for _ in range(turns):
                for name, root in roots.items():
                    found[name].append(run(root, task, network, data_dir))
                    print(network, task, name, found[name][-1], flush=True)
            entry = result.setdefault(network, {})
            entry[task] = {"now": found["now"], "before": found["before"]}
            entry[task]["ratios"] = ratios(found["now"], found["before"])
            print(network, task, entry[task]["ratios"], flush=True)
            RESULT.write_text(json.dumps(result, indent=1) + "\n")


def ratios(now: list[dict], before: list[dict]) -> dict:
    """Return the medians of now / before, and for accuracies the differences."""
    keys = [k for k in now[0] if k.endswith(("_s", "_mib"))]
    if not keys:
        return {k: round(now[0][k] - before[0][k], 2) for k in now[0]}
    return {
        k: round(
            statistics.median(
                a[k] / b[k] for a, b in zip(now, before, strict=True)
            ),
            3,
        )
        for k in keys
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--against", help="another checkout with its own .venv")
    add("--networks", nargs="+", default=list(NETWORKS))
    add("--tasks", nargs="+", default=["time", "accuracy"], choices=TASKS)
    add("--data-dir", default="../shared/data")
    add("--repeat", type=int, default=2, help="turns of what is timed")
    add("--child", choices=TASKS, help=argparse.SUPPRESS)
    add("--root", default=str(ROOT), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
    elif options.against:
        compare(options)
    else:
        parser.error("pass another checkout as --against")


if __name__ == "__main__":
    main()
