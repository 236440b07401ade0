r"""Measure the accuracy right after pruning without data: CIFAR-10, pretrained ResNets.

    python benchmarks/data_free.py --data-dir ../shared/data
    python benchmarks/data_free.py --networks resnet20 --ways "l1 + merge" ...
    python benchmarks/data_free.py --page     # docs/data_free.md from the results

For each network, target and way of pruning (criterion, allocation, repair): the
accuracy that remains when kprune sees only the weights. ResNet-8 is that of MLPerf
Tiny, which takes pixels from 0 to 255; ResNet-20 and -56 take standardised images. All
channel groups may be pruned. Choices were made on `test[:5000]`. VGG-16 has batch
normalisation and one dense layer; it is trained for `--epochs` and stored as `--vgg16`.

Writes `benchmarks/results/data_free_<network>.json`; existing results are kept.
`--data-dir` holds `tfds`, `weights` and `models`.
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
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "data_free.md"
VGG16 = ROOT / "benchmarks" / "checkpoints" / "vgg16.keras"
TARGETS = {
    "resnet8": (0.2, 0.36, 0.49, 0.66),
    "resnet20": (0.2, 0.36, 0.49, 0.66),
    "resnet56": (0.2, 0.36, 0.49, 0.66),
    "vgg16": (0.2, 0.34, 0.49, 0.66),
}
"""Shares of the MACs to remove; of 34 % of VGG-16 there are published figures."""

# criterion, allocation, recover; None is the default of `prune(model)`.
WAYS = {
    "l1": ("l1", "global", []),
    "l1 + merge": ("l1", "global", "merge"),
    "l1 + means": ("l1", "global", "means"),
    "l1 + synthetic": ("l1", "global", "synthetic"),
    "folded": ("folded", "global", []),
    "folded + synthetic": ("folded", "global", "synthetic"),
    "l2 uniform + synthetic": ("l2", "uniform", "synthetic"),
    "prune(model)": (None, None, None),
}

# That of the examples comes last: it has a module `common`, too.
FOLDERS = (".", "benchmarks", "benchmarks/methods", "examples")
sys.path[:1] = [str(ROOT / folder) for folder in FOLDERS]


def recovery(name):
    import kprune

    if name == "means":
        return kprune.recovery.Synthetic(recovery="bias")
    return name


def load(network: str, options: argparse.Namespace):
    """Return the model and the test images."""
    import best_path

    if network != "vgg16":
        model, _, test = best_path.load(network, options.data_dir)
        return model, test
    import data
    import vgg16

    from kprune.data import normalize_cifar10

    images = data.load(options.data_dir / "tfds")
    model = vgg16.trained(options.vgg16, images, options.epochs)
    return model, (normalize_cifar10(images.x_test), images.y_test)


def measure(network: str, options: argparse.Namespace) -> None:
    import best_path

    import kprune

    model, (x, y) = load(network, options)
    path = RESULTS / f"data_free_{network}.json"
    if path.exists():
        result = json.loads(path.read_text())
    else:
        result = {
            "network": network,
            "baseline": best_path.top1(model, x, y),
            "rows": [],
        }
    full = kprune.cost(model)
    for way in options.ways:
        for target in options.targets or TARGETS[network]:
            there = [(r["way"], r["target"]) for r in result["rows"]]
            if (way, target) in there:
                continue
            criterion, allocation, recover = WAYS[way]
            start = time.process_time()
            masked = kprune.prune(
                model,
                criterion,
                {"macs": target},
                allocation,
                recover=recovery(recover),
            )
            seconds = time.process_time() - start
            compact = kprune.rebuild(masked)
            cost = kprune.cost(compact)
            row = {
                "way": way,
                "target": target,
                "macs_removed": round(1 - cost.macs / full.macs, 4),
                "params_removed": round(1 - cost.params / full.params, 4),
                "accuracy": best_path.top1(compact, x, y),
                "cpu_seconds": round(seconds, 1),
            }
            print(network, row, flush=True)
            result["rows"].append(row)
            result["kprune"] = kprune.__version__
            path.write_text(json.dumps(result, indent=1) + "\n")


def table(result: dict) -> list[str]:
    rows = {(r["way"], r["target"]): r["accuracy"] for r in result["rows"]}
    targets = sorted({target for _, target in rows})
    heads = " | ".join(f"{target:.0%}" for target in targets)
    lines = [f"| fewer MACs | {heads} |", "|---|" + "---:|" * len(targets)]
    for way in [w for w in WAYS if any(key[0] == w for key in rows)]:
        cells = [
            f"{rows[way, t]['test']:.2f} ({rows[way, t]['test[5000:]']:.2f})"
            if (way, t) in rows
            else "not run"
            for t in targets
        ]
        lines.append(f"| `{way}` | {' | '.join(cells)} |")
    return lines


def page() -> None:
    """Write the page from the committed results."""
    lines = [
        "# Without any data",
        "",
        "Top-1 accuracy in percent on all 10,000 test images of CIFAR-10 (in brackets",
        "on their second half) right after pruning, when kprune has only the weights:",
        "no images, no training. Made by `python benchmarks/data_free.py`; its",
        "docstring describes the experiment.",
        "",
        "Each way is named after its criterion and its repair. `merge` adds each",
        "removed filter to the most similar one, from a cosine of 0.1 on (neuron",
        "merging, Kim et al., NeurIPS 2020). `synthetic` refits layers on noise",
        "after calibrating batch normalisation on it (`kprune.recovery.Synthetic`).",
        '`means` is `Synthetic(recovery="bias")`, which corrects only means.',
        "`prune(model)` is the default without data.",
        "",
    ]
    for network in TARGETS:
        path = RESULTS / f"data_free_{network}.json"
        if path.exists():
            result = json.loads(path.read_text())
            base = result["baseline"]
            name = network.replace("resnet", "ResNet-").replace("vgg", "VGG-")
            lines += [
                f"## {name} (baseline {base['test']:.2f}, "
                f"second half {base['test[5000:]']:.2f})",
                "",
                *table(result),
                "",
            ]
    PAGE.write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = list(TARGETS)
    add("--networks", nargs="+", default=names, choices=names)
    add("--targets", type=float, nargs="+", default=[])
    add("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    add("--data-dir", type=pathlib.Path)
    add("--vgg16", type=pathlib.Path, default=VGG16)
    add("--epochs", type=int, default=8, help="of training VGG-16")
    add("--page", action="store_true", help="write the page, measure nothing")
    options = parser.parse_args()
    if not options.page:
        for network in options.networks:
            measure(network, options)
    page()


if __name__ == "__main__":
    main()
