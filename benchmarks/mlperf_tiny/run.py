r"""Prune the networks of MLPerf Tiny for time, memory and MACs.

    python benchmarks/mlperf_tiny/run.py --data ../shared/data
    python benchmarks/mlperf_tiny/run.py --parts costs arena --networks ic kws ...
    python benchmarks/mlperf_tiny/run.py --parts train --arms macs --target macs=0.5 ...
    python benchmarks/mlperf_tiny/run.py --list

`--data` holds `models/` (the suite's trained files, `mlperf_tiny_*.h5`) and, for
training, `tfds/` (CIFAR-10). Needs the extra `ethos`. Parts:

- costs: prunes each of five networks by L2 norm, for the time of an Ethos-U55-128, its
  SRAM, LiteRT's time, the arena of TensorFlow Lite Micro, and MACs, at two targets
  each. It measures the costs of the int8 file, not accuracy.
- widths: searches a grid of widths of ResNet-8, estimated by Vela, for the one with the
  most MACs that needs at most 60 % of both the time and the SRAM of the NPU.
- train: prunes ResNet-8 to these widths, repairs it on 1,024 unlabelled images,
  rebuilds it, and trains it for some epochs on labels and with the unpruned network as
  teacher, by SGD. Images are flipped and cropped; the learning rate falls along a
  cosine. Accuracy is measured after each epoch on `test[:5000]`, and at the end for the
  int8 file on all of test.
- arena: compares kprune's estimate with TensorFlow Lite Micro itself (package
  tflite-micro).
- page: writes `docs/mlperf_tiny.md` from the results.

Each run writes one file in `results/`; a run whose file exists is skipped. Interrupted
training resumes.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Appended, not inserted: that folder has a module `run` too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "methods"))

import common
import costs
import data
import suite
import tables
import tflm
import trained
import widths

HERE = Path(__file__).resolve().parent

RESULTS = HERE / "results"
CHECKPOINTS = HERE / "checkpoints"
PAGE = HERE.parents[1] / "docs" / "mlperf_tiny.md"
PARTS = ("costs", "arena", "widths", "train", "page")


def target(text: str) -> dict[str, float]:
    """Read `latency=0.4,ram=0.4`."""
    return {
        name: float(share)
        for name, share in (part.split("=") for part in text.split(","))
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--parts", nargs="+", default=PARTS, choices=PARTS)
    add("--data", type=Path, help="folder with models/ and tfds/")
    add("--results", type=Path, default=RESULTS)
    add("--page", type=Path, default=PAGE)
    add("--checkpoints", type=Path, default=CHECKPOINTS)
    add("--list", action="store_true", help="list what is missing; run nothing")
    add(
        "--networks",
        nargs="+",
        default=list(suite.NETWORKS),
        choices=list(suite.NETWORKS),
    )
    add("--arms", nargs="+", default=["widest"], choices=list(trained.ARMS))
    add("--target", nargs="+", default=[], type=target, help="macs=0.5")
    add("--seeds", nargs="+", type=int, default=(0, 1, 2))
    add("--images-npz", type=Path, nargs="+", default=[], metavar="FILE")
    common.add_fields(parser, trained.Setting)
    return parser.parse_args(arguments)


def series(
    options: argparse.Namespace,
    name: str,
    wanted: list[Any],
    run: Callable[[Any], dict[str, Any]],
) -> int:
    """Run the missing ones of some tasks, and return the number of failed ones."""
    missing = common.missing_runs(wanted, None, name, names=options.list)
    if options.list or not missing:
        return 0
    return common.run_missing(missing, None, run)


def train(options: argparse.Namespace) -> int:
    setting = common.from_options(trained.Setting, options)
    wanted = trained.tasks(
        options.arms, options.target, options.seeds, setting, options.results
    )
    missing = common.missing_runs(wanted, setting, "train", names=options.list)
    if options.list or not missing:
        return 0
    images = data.load(options.data / "tfds", options.images_npz)
    model = common.pretrained(8, options.data / "models")
    bench = trained.Bench(setting, images, model, options.checkpoints)
    print(f"unpruned: {bench.baseline}", flush=True)
    return common.run_missing(missing, setting, bench.run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, and return the number of failed runs."""
    options = parse(arguments)
    failed = 0
    networks, results = options.networks, options.results
    folder = options.data / "models" if options.data else Path()
    if "costs" in options.parts:
        wanted = costs.tasks(networks, results)
        failed += series(options, "costs", wanted, costs.Bench(folder).run)
    if "arena" in options.parts:
        wanted = tflm.tasks(networks, results)
        run = functools.partial(tflm.run, folder=folder)
        failed += series(options, "arena", wanted, run)
    if "widths" in options.parts:
        run = functools.partial(widths.run, folder=folder)
        failed += series(options, "widths", widths.tasks(results), run)
    if "train" in options.parts:
        failed += train(options)
    if "page" in options.parts and not options.list:
        tables.write_page(results, options.page)
        print(options.page)
    return failed


if __name__ == "__main__":
    sys.exit(main() > 0)
